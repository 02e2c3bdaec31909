"""The bytes of each token of a vocabulary, and the scripts of its letters.

The same table serves all uses: the language of a segment, the token term of SASFT, and expected switch rates.
"""

# V vocabulary

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .languages import Letters, letters_in


@dataclass(frozen=True)
class TokenScripts:
    """The letters of each token, by token id. A special token, or an id without a token, has none."""

    letters: tuple[Letters, ...]

    def __len__(self) -> int:
        return len(self.letters)

    def mask(self, scripts: Iterable[str], *, whole: bool = True, begun: bool = True, size: int = 0) -> Tensor:
        """A mask of the tokens that contain a letter of these scripts.

        A token with letters of several scripts belongs to each of them.

        Args:
            scripts: ISO 15924 codes, such as those of `get_language("ja").scripts`.
            whole: count complete letters.
            begun: count a letter that the token begins and a later token completes, if its script is clear.
            size: smallest length of the result, such as the number of logits of the model, which may be larger than the
                number of tokens because of padding. Default: the number of tokens.

        Returns:
            `(V,)` booleans, where V is the larger of `size` and the number of tokens.
        """
        wanted = frozenset(scripts)
        held = [
            (whole and not wanted.isdisjoint(letters.scripts)) or (begun and letters.begun in wanted)
            for letters in self.letters
        ]
        return torch.tensor(held + [False] * (size - len(held)), dtype=torch.bool)


def token_scripts(tokenizer: Any) -> TokenScripts:
    """Find the letters of every token of a vocabulary: byte-level, with byte fallback, or of whole characters.

    - Byte-level BPE (GPT-2, Qwen, Llama 3): a token is a sequence of bytes, and may begin or end inside a character.
      The first bytes of a character count as `begun` if its script is clear: b'\\xe4\\xbd' is Han, but b'\\xe3' may be
      kana, Han or punctuation. The last bytes of a character are ignored.
    - Byte fallback (Gemma, Llama 2): `<0xE4>` is treated as one byte. Other tokens are whole characters.
    - Special tokens have no letters, whatever their names. Other added tokens are text.

    Args:
        tokenizer: a transformers tokenizer.

    Example:
        >>> table = token_scripts(tokenizer)
        >>> han_V = table.mask(["Hani"], size=model.config.get_text_config().vocab_size)
    """
    raws = token_bytes(tokenizer)
    letters = {raw: letters_in(raw) for raw in set(raws)}
    return TokenScripts(tuple(letters[raw] for raw in raws))


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes of each token, by token id; empty for a special token and for an id without a token."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    spell = _speller(tokenizer)
    raws = [b""] * (max(vocabulary.values()) + 1)  # ids may have gaps
    for token, index in vocabulary.items():
        if index not in special:
            raws[index] = spell(token)
    return raws


def _speller(tokenizer: Any) -> Callable[[str], bytes]:
    """A function from a token, as the vocabulary spells it, to its bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder")):
        byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
        # An added token is plain text. Like the decoder, treat a token that is not all bytes as text.
        return lambda token: bytes(byte_of[c] for c in token) if byte_of.keys() >= set(token) else token.encode()

    def spell(token: str) -> bytes:
        one_byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
        return bytes([int(one_byte[1], 16)]) if one_byte else token.replace("▁", " ").encode()

    return spell
