"""Phrases to token ids, with CLIP's byte-pair encoding as SAM3's text encoder was trained with it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from MedicalSAM3Lib.errors import PromptError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

CONTEXT_LENGTH = 32
"""Tokens that the text encoder reads, start and end included (SAM3's; CLIP itself reads 77)."""

TOKENIZER_FILES = ("vocab.json", "merges.txt")

# The encoding of one word grows faster than its length, so a text no 32 tokens can hold is refused before.
_LONGEST_CHARACTERS = 2000


class Tokenizer:
    """Turns phrases into ids of fixed length, so that compiled models see one shape."""

    def __init__(self, encoding: CLIPTokenizer) -> None:
        self._encoding = encoding

    def encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode phrases; case and runs of white space make no difference.

        Args:
            phrases: P phrases, each at most 32 tokens long with the start and end tokens.

        Returns:
            ``input_ids`` int64 ``(P, 32)``, padded with the end token, and ``attention_mask`` int64
            ``(P, 32)``, 1 at real tokens.

        Raises:
            PromptError: A phrase is empty, too long, or holds a control token of the vocabulary.
        """
        import torch

        ids = torch.full((len(phrases), CONTEXT_LENGTH), self._encoding.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, phrase in enumerate(phrases):
            tokens = self._tokens(phrase)
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def _tokens(self, phrase: str) -> list[int]:
        text = clean_phrase(phrase)
        if not text:
            raise PromptError("Expected a concept such as 'liver', got an empty one; type what to look for.")
        if len(text) > _LONGEST_CHARACTERS:
            raise _too_long(f"{len(text)} characters")
        # Without truncation=False a longer phrase would only log a warning.
        tokens = list(self._encoding(text, truncation=False, verbose=False)["input_ids"])
        control = {self._encoding.bos_token_id, self._encoding.eos_token_id}
        if control & set(tokens[1:-1]):
            raise PromptError("Expected plain words, got a control token of the text encoder; remove '<|...|>'.")
        if len(tokens) > CONTEXT_LENGTH:
            raise _too_long(f"{len(tokens)} tokens")
        return tokens


def clean_phrase(phrase: str) -> str:
    """Undo HTML escapes, join white space and lower the case, as SAM3's own cleaning does."""
    unescaped = html.unescape(html.unescape(phrase))
    return re.sub(r"\s+", " ", unescaped).strip().lower()


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load the tokenizer of a model folder.

    Args:
        folder: Folder with ``vocab.json`` and ``merges.txt``.

    Raises:
        WeightsError: A file is missing or is no byte-pair vocabulary.
    """
    from transformers import CLIPTokenizer

    folder = Path(folder)
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"Expected {' and '.join(TOKENIZER_FILES)} in '{folder.name}', {missing[0]} is missing.")
    try:
        encoding = CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    except Exception as error:  # the Rust reader raises bare Exception
        raise WeightsError(
            f"Expected a byte-pair vocabulary in '{folder.name}', got unreadable files; install it again."
        ) from error
    return Tokenizer(encoding)


def _too_long(length: str) -> PromptError:
    return PromptError(
        f"Expected a concept of at most {CONTEXT_LENGTH} tokens (about 25 words), got {length}; shorten it."
    )
