"""The settings of the server: flags before environment before file before defaults.

load_settings(file, {"port": 9000})        MEDSAM3_SERVER_PORT=9000        port = 9000
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.faults import fault_line
from MedicalSAM3Lib.tokens import TOKEN_VARIABLE, Token, load_tokens

PREFIX = "MEDSAM3_SERVER_"
_LISTS = ("allow_hosts", "allow_origins", "devices")


class ServerSettings(BaseModel):
    """How the server runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own needs a token."""
    port: int = Field(default=8765, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    token_file: Path | None = None
    """File with a line "NAME TOKEN [EXPIRES]" for each client; EXPIRES is a date such as 2027-01-31."""
    tokens: tuple[Token, ...] = Field(default=(), repr=False)
    """Who may use the server; nobody needs a token where there is none."""
    tls_certificate: Path | None = None
    """Certificate chain (PEM) to speak HTTPS."""
    tls_key: Path | None = None
    """Its private key (PEM)."""
    allow_hosts: tuple[str, ...] = ()
    """Further names that clients know this server by, as they stand in the Host header."""
    allow_origins: tuple[str, ...] = ()
    """Web pages elsewhere that may use this server, such as https://viewer.example.org."""
    spool: Path | None = None
    """Private folder for uploads and results; they are removed at the end and at the next start."""
    model: str = "auto"
    """Model that the engines keep loaded."""
    devices: tuple[str, ...] = ("auto",)
    """An engine for each: "cuda:0,cuda:1"."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each engine on a processor; by default all cores, shared by the engines."""
    feature_gb: float | None = Field(default=None, gt=0)
    """Memory (10^9 bytes) for the features of recent volumes, of each engine; by default from the machine."""
    ray: str | None = None
    """Address of a Ray cluster whose engines are used instead of this machine's; "local" starts one here."""
    manage_models: bool | None = None
    """Whether clients may download and remove models; by default only where the server is this machine's own."""
    page: bool = True
    """Serve the page at /."""
    docs: bool = False
    """Serve /docs, whose page loads scripts from the Internet."""

    upload_bytes: int = Field(default=4 << 30, ge=1)
    """Largest file."""
    voxels: int = Field(default=1 << 29, ge=1)
    """Largest volume, in voxels."""
    expansion_ratio: int = Field(default=200, ge=1)
    """Most times that a compressed file may be smaller than what is in it (64 MB are always allowed)."""
    concepts: int = Field(default=64, ge=1)
    """Most concepts of a job."""
    phrase_characters: int = Field(default=500, ge=1)
    """Longest concept."""
    chunk_bytes: int = Field(default=8 << 20, ge=1024)
    """Largest piece of an upload, before and after it is expanded."""
    spool_bytes: int = Field(default=50 << 30, ge=1)
    """Most that uploads, volumes and results may take on the disk."""
    queue: int = Field(default=64, ge=1)
    """Most jobs that wait."""
    queue_per_client: int = Field(default=16, ge=1)
    """Most jobs of one client that wait."""
    uploads_per_client: int = Field(default=8, ge=1)
    """Most uploads that one client has open."""
    idle_s: float = Field(default=1800.0, gt=0)
    """After this time (s) without use an upload, a volume or a result is removed."""
    connections: int = Field(default=256, ge=8)
    """Most connections at a time; of more, those go that have not asked for anything the longest."""
    header_s: float = Field(default=10.0, gt=0)
    """Time (s) for a connection to make its request."""
    body_s: float = Field(default=120.0, gt=0)
    """Time (s) for a request to arrive as a whole."""
    decode_s: float = Field(default=300.0, gt=0)
    """Time (s) for a file to be decoded."""
    decode_bytes: int = Field(default=12 << 30, ge=1 << 30)
    """Memory that decoding a file may take."""
    decoders: int = Field(default=2, ge=1)
    """Files that are decoded at the same time."""

    @model_validator(mode="after")
    def _is_safe(self) -> ServerSettings:
        if not self.is_local and not self.tokens:
            raise ValueError(
                f"expected a token for every address but this machine's own, got none for '{self.host}'; "
                f"set token_file or {TOKEN_VARIABLE}"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected tls_certificate and tls_key together, got one of them")
        for origin in self.allow_origins:
            if not origin.startswith(("http://", "https://")) or origin.rstrip("/") != origin:
                raise ValueError(f"expected allow_origins like https://viewer.example.org, got '{origin}'")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def may_manage_models(self) -> bool:
        """Whether clients may download and remove models."""
        return self.is_local if self.manage_models is None else self.manage_models

    def warnings(self) -> tuple[str, ...]:
        """What whoever starts the server should know."""
        if self.is_local or self.tls_certificate is not None:
            return ()
        return (
            "Images and tokens travel unencrypted: give tls_certificate and tls_key, or put a proxy that speaks HTTPS "
            "(Caddy, nginx) before this server.",
        )


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> ServerSettings:
    """Read the settings from all places.

    Args:
        file: TOML, with the names of the fields.
        flags: What was typed; None values count as not given.
        environ: ``os.environ`` unless given: MEDSAM3_SERVER_PORT and so on, lists parted by commas.

    Raises:
        SettingsError: An unknown name, a value that cannot be used, a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = _read_toml(file) if file is not None else {}
    values |= _from_environment(environ)
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    values.pop("tokens", None)
    values["tokens"] = load_tokens(values.get("token_file"), environ)
    return make_server_settings(**values)


def make_server_settings(**values: Any) -> ServerSettings:
    """Build settings; a wrong value raises ``SettingsError`` with one readable line."""
    try:
        return ServerSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(fault_line(error.errors(include_input=False)[0], "server")) from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ServerSettings.model_fields:
        text = environ.get(PREFIX + name.upper())
        if text and name != "tokens":
            values[name] = [part.strip() for part in text.split(",") if part.strip()] if name in _LISTS else text
    return values


def _read_toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise SettingsError(f"Expected a settings file, got {file.name}: {reason}.") from error
