"""What the tokens of a vocabulary hold: their bytes, and the scripts of their letters.

One table for everything that asks which tokens belong to a script: the language of a segment, the token term of
SASFT, and expected rates of switching.
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
    """The letters of each token, by token id. A special token, or an id without a token, holds none."""

    letters: tuple[Letters, ...]

    def __len__(self) -> int:
        return len(self.letters)

    def mask(self, scripts: Iterable[str], *, whole: bool = True, begun: bool = True, size: int = 0) -> Tensor:
        """Which tokens hold a letter of these scripts.

        A token that holds letters of several scripts belongs to each of them.

        Args:
            scripts: ISO 15924 codes, such as those of `get_language("ja").scripts`.
            whole: count letters that the token holds in full.
            begun: count a letter that the token begins and a later token ends, when its script can be told.
            size: least length of the result, such as the number of the model's logits, which a vocabulary's padding
                makes larger than the number of tokens. Default: the number of tokens.

        Returns:
            `(V,)` booleans, V the larger of `size` and the number of tokens.
        """
        wanted = frozenset(scripts)
        held = [
            (whole and not wanted.isdisjoint(letters.scripts)) or (begun and letters.begun in wanted)
            for letters in self.letters
        ]
        return torch.tensor(held + [False] * (size - len(held)), dtype=torch.bool)


def token_scripts(tokenizer: Any) -> TokenScripts:
    """The letters of every token of a vocabulary: byte-level, with byte fallback, or of whole characters.

    - Byte-level BPE (GPT-2, Qwen, Llama 3): a token is bytes, and may begin or end inside a character. The start of a
      character counts as `begun` when its script can be told: b'\\xe4\\xbd' is Han, b'\\xe3' may be kana, Han or
      punctuation. The end of a character counts for nothing.
    - Byte fallback (Gemma, Llama 2): `<0xE4>` is one byte, and treated so. Other tokens are whole characters.
    - Special tokens hold no letters, whatever they are called. Other added tokens are text.

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
    """How this tokenizer writes bytes in its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder")):
        byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
        # An added token is plain text; as the decoder does, take what is no bytes as a whole for text.
        return lambda token: bytes(byte_of[c] for c in token) if byte_of.keys() >= set(token) else token.encode()

    def spell(token: str) -> bytes:
        one_byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
        return bytes([int(one_byte[1], 16)]) if one_byte else token.replace("▁", " ").encode()

    return spell
