"""Cut texts into the tokens that are read of them: one way for all that reads texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Pieces(NamedTuple):
    """A text's token ids, and the start and end of each token in the text."""

    ids: list[int]
    places: list[tuple[int, int]]


def first_tokens(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """The first tokens of each text, with the special tokens that the tokenizer puts before it.

    Special tokens that the tokenizer puts after a text belong to it: they are read only if the whole text is. So a
    longer `max_length` always reads the same tokens and more, and the tokenizer's side of truncation does not count.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts.
        max_length: number of tokens that are read of each text; None reads all.

    Example:
        >>> [len(ids) for ids in first_tokens(tokenizer, ["the cat sees a house", "the"], 3)]
        [3, 1]
    """
    if not texts:
        return []
    # Not verbose: texts that are longer than the model's context are cut here.
    encoded: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    return [ids[:max_length] for ids in encoded]


def cut(tokenizer: Any, text: str, max_length: int | None = None, *, special: bool = False) -> Pieces:
    """Tokenise a text as `first_tokens` does, and keep the place of each token in it.

    Args:
        tokenizer: a fast tokenizer.
        text: the text.
        max_length: number of tokens that are kept. Default: all.
        special: whether special tokens are added. Their place is (0, 0).

    Raises:
        ValueError: the tokenizer does not report places, as slow tokenizers do not.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not report where its tokens are in the text. Use the model's fast "
            "tokenizer."
        )
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    return Pieces(encoded["input_ids"][:max_length], [tuple(p) for p in encoded["offset_mapping"][:max_length]])
