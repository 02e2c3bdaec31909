"""Convert values of a language column to our codes: ISO 639 codes, FLORES and BCP-47 tags, English names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache

from .tag_table import (
    ABSENT,
    ABSENT_NAMES,
    CODES,
    COUNTRIES,
    EXTENDED,
    NAMES,
    NARROWING,
    REGIONS,
    SCRIPT_NAMES,
    SPECIAL,
    WRITTEN,
)

# zh-yue: these are macrolanguages, so a second subtag may name an individual language.
_EXTENDED = ("ar", "lv", "ms", "sw", "uz", "zh")
_SHORTEST_NAME = 5  # letters; shorter ones resemble too many others
_NARROWING = re.compile(rf"[a-z]{{2}}|\d{{3}}|\d\w{{3}}|(?=\D*\d)\w{{5,8}}|{'|'.join(NARROWING.split())}")

Read = tuple[str, tuple[str, ...] | None]
"""A language's code, and the scripts that its tag names; None means the usual scripts."""


def read_tag(tag: str, names: Mapping[str, str], scripts: Collection[str]) -> Read:
    """The code for a tag or a name, and the scripts that it names; None means the usual scripts.

    Args:
        tag: 'zh', 'zho', 'zho_Hans', 'zh-Hans-CN', 'zh_CN.UTF-8' or 'Simplified Chinese'. Case is ignored.
        names: the English name of each language of the table, by code.
        scripts: the ISO 15924 codes of Unicode's scripts.

    Raises: ValueError: it is none of these, or a language that is not in the table. The message says which.
    """
    base, *subtags = re.split("[-_@]", re.sub(r"\.[\w-]+(?=@|$)", "", tag.strip().lower()))  # zh_CN.UTF-8
    code = _codes().get(base, base)
    try:
        if code in names:
            return _with_subtags(code, subtags, names, scripts)
        return _named(tag.strip(), names)
    except _UnknownError as error:
        raise ValueError(f"unknown language {tag!r}; {error}.") from None


class _UnknownError(Exception):
    """A tag names no language of the table. The message is the second half of a sentence that explains why."""


def _with_subtags(code: str, subtags: list[str], names: Mapping[str, str], scripts: Collection[str]) -> Read:
    written: tuple[str, ...] | None = None
    for place, subtag in enumerate(subtags):
        if len(subtag) == 1:
            break  # extensions and private-use subtags do not change the language
        if place == 0 and code in _EXTENDED and subtag in EXTENDED:
            return _with_subtags(_extended(subtag, names), subtags[1:], names, scripts)
        subtag = SCRIPT_NAMES.get(subtag, subtag)
        if re.fullmatch("[A-Za-z]{4}", subtag):
            written = _scripts(subtag.title(), scripts)
        elif not _NARROWING.fullmatch(subtag):
            raise _UnknownError(f"its part {subtag!r} is neither a region, a script nor a known variant")
    return code, written


def _extended(subtag: str, names: Mapping[str, str]) -> str:
    code = _codes().get(subtag, subtag)
    if code not in names:
        raise _UnknownError(_is_absent(_absent_codes()[subtag]))
    return code


def _scripts(script: str, scripts: Collection[str]) -> tuple[str, ...] | None:
    if script in WRITTEN:
        return WRITTEN[script] or None
    if script not in scripts:
        raise _UnknownError(f"{script!r} is not an ISO 15924 code of a Unicode script")
    return (script,)


def _named(tag: str, names: Mapping[str, str]) -> Read:
    codes, phrase = _codes_of_names(tuple(names.items())), _words(tag)
    if phrase in _absent_names():
        raise _UnknownError(_is_absent(_absent_names()[phrase]))
    if phrase in codes:
        return codes[phrase], None
    for name, qualifier in _qualified(tag, phrase):
        both = f"{qualifier} {name}"
        if both in codes:  # Arabic (Egyptian)
            return codes[both], None
        if both in _absent_names():
            raise _UnknownError(_is_absent(_absent_names()[both]))
        if name in codes and (qualifier in REGIONS or codes.get(qualifier) == codes[name]):
            return codes[name], None
        if name in codes and qualifier in SCRIPT_NAMES:
            script = SCRIPT_NAMES[qualifier]
            return codes[name], WRITTEN.get(script, (script,))
    raise _UnknownError(_why_unknown(tag, phrase, names))


def _qualified(tag: str, phrase: str) -> list[tuple[str, str]]:
    """Split a name from its qualifier: 'Portuguese (Brazil)', 'Chinese, Simplified', 'Serbian Latin'."""
    found = []
    if match := re.fullmatch(r"([^(),]+?)\s*[,(]\s*([^()]+?)\s*\)?", tag):
        found.append((_words(match[1]), _words(match[2])))
    first, _, rest = phrase.partition(" ")
    start, _, last = phrase.rpartition(" ")
    return [*found, (rest, first), (start, last)]


def _why_unknown(tag: str, phrase: str, names: Mapping[str, str]) -> str:
    base = re.split("[-_]", tag.lower())[0]
    if base in SPECIAL:
        return SPECIAL[base]
    if base in _absent_codes():
        return _is_absent(_absent_codes()[base])
    found = COUNTRIES.get(tag.lower()) or _misspelt(phrase, names)
    if found:
        return f"the nearest known code is {found!r} ({names[found]})"
    return "expected an ISO 639 code such as 'zh' or 'zho', a tag such as 'zho_Hans' or 'pt-BR', or an English name"


def _is_absent(name: str) -> str:
    return f"it means {name}, which is not in the table of languages"


def _misspelt(phrase: str, names: Mapping[str, str]) -> str | None:
    """The only language whose name differs by one added or missing letter, two swapped letters, or a missing end."""
    if len(phrase) < _SHORTEST_NAME:
        return None
    close = {code for name, code in _codes_of_names(tuple(names.items())).items() if _nearly(phrase, name)}
    return close.pop() if len(close) == 1 else None


def _nearly(typed: str, name: str) -> bool:
    if name.startswith(typed) and len(name) - len(typed) <= 3:
        return True
    shorter, longer = sorted((typed, name), key=len)
    if len(longer) - len(shorter) == 1:
        return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))
    swapped = (typed[:at] + typed[at + 1] + typed[at] + typed[at + 2 :] for at in range(len(typed) - 1))
    return len(typed) == len(name) and name in swapped


def _words(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.lower()))


def _entries(table: str) -> list[str]:
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split("|")]


@cache
def _codes() -> dict[str, str]:
    return {other: entry.split()[0] for entry in _entries(CODES) for other in entry.split()[1:]}


@cache
def _codes_of_names(names: tuple[tuple[str, str], ...]) -> dict[str, str]:
    further = (entry.split(": ") for entry in _entries(NAMES))
    return {
        **{name: code for code, called in further for name in called.split(", ")},
        **{_words(name): code for code, name in names},
    }


@cache
def _absent_codes() -> dict[str, str]:
    found = {}
    for line in ABSENT.strip().splitlines():
        for entry in line.split(", "):
            codes = re.match(r"(?:[a-z]{2,3} )+", entry)
            assert codes is not None
            found.update(dict.fromkeys(codes[0].split(), entry[codes.end() :]))
    return found


@cache
def _absent_names() -> dict[str, str]:
    return {_words(name): name for name in (*_absent_codes().values(), *ABSENT_NAMES.split(", "))}
