"""The tokens of the server: read once, kept as digests, compared in constant time, never shown.

Beyond this machine a token is required; who has none is refused before anything of the request is read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from MedicalSAM3Lib.catalogue import NAME_PATTERN
from MedicalSAM3Lib.errors import SettingsError

TOKEN_VARIABLE = "MEDSAM3_SERVER_TOKEN"
SHORTEST_TOKEN = 16
"""Characters; ``python -c "import secrets; print(secrets.token_urlsafe(32))"`` makes one of 43."""


class Token(BaseModel):
    """Who may use the server. Compared by digest; the token itself is forgotten once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    digest: bytes = Field(min_length=32, max_length=32, repr=False)
    expires: datetime | None = None

    @classmethod
    def of(cls, name: str, secret: str, expires: datetime | None = None) -> Token:
        """A token from its text.

        Raises:
            SettingsError: It is too short to be safe, or its name cannot be used.
        """
        if len(secret) < SHORTEST_TOKEN or not secret.isascii() or any(letter.isspace() for letter in secret):
            raise SettingsError(
                f"token '{name[:64]}': expected {SHORTEST_TOKEN} characters of ASCII without spaces or more, "
                'got something else; make one by python -c "import secrets; print(secrets.token_urlsafe(32))".'
            )
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=timezone.utc)
        try:
            return cls(name=name, digest=hashlib.sha256(secret.encode()).digest(), expires=expires)
        except ValidationError as error:
            raise SettingsError(
                f"Expected a token's name of lower case letters and digits, got '{name[:64]}'."
            ) from error


def find_token(tokens: Sequence[Token], secret: str) -> Token | None:
    """The token that a client sent, or None. How long it takes does not tell how much of it was right."""
    digest = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
    found = None
    for token in tokens:  # all of them, whether found or not
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def load_tokens(token_file: Path | str | None, environ: Mapping[str, str]) -> tuple[Token, ...]:
    """All tokens: that of the environment, and those of a file.

    Raises:
        SettingsError: The file cannot be read, others can read it, or a line is no token.
    """
    tokens = []
    if environ.get(TOKEN_VARIABLE):
        tokens.append(Token.of("environment", environ[TOKEN_VARIABLE]))
    if token_file is not None:
        tokens += _read_tokens(Path(token_file))
    names = [token.name for token in tokens]
    if len(set(names)) < len(names):
        raise SettingsError("token_file: expected each name once, got one twice.")
    return tuple(tokens)


def _read_tokens(file: Path) -> list[Token]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise SettingsError(f"token_file: expected a file that only you can read, got {file.name}; chmod 600 it.")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"token_file: expected a text file, {file.name} cannot be read.") from error
    tokens = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in (2, 3):
            raise SettingsError(f"token_file: expected NAME TOKEN [EXPIRES] in line {number}, got {len(words)} words.")
        tokens.append(Token.of(words[0], words[1], _date(words[2], number) if len(words) == 3 else None))
    if not tokens:
        raise SettingsError(f"token_file: expected a line NAME TOKEN, {file.name} has none.")
    return tokens


def _date(text: str, number: int) -> datetime:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise SettingsError(
            f"token_file: expected a date such as 2027-01-31 in line {number}, got another text."
        ) from error
