"""Replace parts of a text by spaces, so that the offsets of everything else stay the same. Line breaks are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import regex


def spaces(match: regex.Match[str]) -> str:
    """As many spaces as the match has characters, for `Pattern.sub`."""
    return as_spaces(match[0])


def as_spaces(text: str) -> str:
    return " " * len(text) if "\n" not in text else "\n".join(" " * len(line) for line in text.split("\n"))


def without(text: str, stretches: Iterable[tuple[int, int]], replace: Callable[[str], str] = as_spaces) -> str:
    """Replace parts of a text, by default with spaces. `stretches` are (start, end), in any order."""
    parts, place = [], 0
    for start, end in sorted(stretches):
        if end > place:
            start = max(start, place)
            parts += [text[place:start], replace(text[start:end])]
            place = end
    return "".join([*parts, text[place:]]) if parts else text


def code_points(text: str) -> np.ndarray:
    """The Unicode code point of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
