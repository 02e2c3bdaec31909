"""How many words a text has, in scripts with spaces between them and without."""

from __future__ import annotations

from functools import cache

import regex

from ..languages import UNSPACED_SCRIPTS

_CHARACTERS_PER_WORD = 2  # in scripts without spaces


def count_words(text: str) -> float:
    """Words that hold a letter; of a script without spaces, two characters count as one.

    Example:
        >>> count_words("Two words, 2 更多")
        3.0
    """
    words = _unit().findall(text)
    unspaced = sum(len(word) == 1 and _unspaced().match(word) is not None for word in words)
    return len(words) - unspaced + unspaced / _CHARACTERS_PER_WORD


@cache
def _unspaced() -> regex.Pattern[str]:
    return regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS) + "]")


@cache
def _unit() -> regex.Pattern[str]:
    """A word with a letter, or one character of a script without spaces."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    return regex.compile(rf"[{unspaced}]|[^\W\d_{unspaced}][^\W{unspaced}]*")
