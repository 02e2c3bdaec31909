"""What counts as a switch. The rate, the reward, the callback and the command use the same `SwitchCriteria`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from ..languages import SCRIPTS, get_language
from .phrases import PhraseFinder
from .prose import blank
from .scripts import Span, unexpected_spans
from .words import count_words

ALLOWED_COLUMNS = ("allowed", "languages")
"""Columns that name the languages that an answer may use besides its own. The first column that exists is read."""

_BETWEEN = re.compile(r"[,;|/]")

_HAN_FORMS = {"ja": frozenset({"zh"}), "zh": frozenset({"ja"}), "yue": frozenset({"ja"})}
"""For each language written in Han, the languages that can be distinguished from it by their character forms."""


class Targets(NamedTuple):
    """The languages and scripts that count as targets of a switch."""

    scripts: frozenset[str]
    languages: frozenset[str]
    named: frozenset[str]  # scripts that were named directly, not through a language


def parse_targets(to: str | Iterable[str] | None) -> Targets | None:
    """Parse the option `to` into languages and scripts. None means that every switch counts.

    Raises: ValueError: an unknown language or script, or an empty list.
    """
    if to is None:
        return None
    entries = [to] if isinstance(to, str) else list(to)
    named = {entry for entry in entries if entry in SCRIPTS}
    known = [get_language(entry) for entry in entries if entry not in SCRIPTS]
    scripts = named.union(*(language.scripts for language in known))
    if not scripts:
        raise ValueError("`to` is empty; name a language or script, or leave it out to count every switch.")
    codes = {language.code for language in known}
    return Targets(frozenset(scripts), frozenset(codes | ({"zh"} if "yue" in codes else set())), frozenset(named))


def parse_allowed(value: Any) -> tuple[str, ...]:
    """Parse a value of the column `allowed`: a list of languages, a text such as "zh, ja", or None.

    A list may also be stored as text, as in tables: "['zh', 'ja']".

    Raises: ValueError: an unknown language, or a value of another type.
    """
    if value is None or (isinstance(value, float) and value != value):  # an empty cell of a table is NaN
        return ()
    entries = tuple(_named_in(value) if isinstance(value, str) else value if isinstance(value, Iterable) else [value])
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f'expected languages, as in ["zh", "ja"], got {value!r:.60}.')
    for entry in entries:
        if entry not in SCRIPTS:
            get_language(entry)
    return entries


def allowed_in(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The languages that a row allows besides its own. Raises: ValueError: the column holds no list of languages."""
    for column in ALLOWED_COLUMNS:
        if row.get(column) is not None:
            try:
                return parse_allowed(row[column])
            except ValueError as error:
                raise ValueError(f"column {column!r}: {error}") from error
    return ()


@dataclass(frozen=True)
class SwitchCriteria:
    """What counts as a switch into another language or script.

    Args:
        to: languages or scripts; only switches into these count. Default: into any.
        phrases: finder of phrases in other languages of the same script, which then count too.
        ignore_code, ignore_urls, ignore_glosses, han_without_kana, allowed: as in `unexpected_spans`.
        count_latin: count Latin words inside other scripts. Always on if `to` names a language written in Latin.

    Raises:
        ValueError: an unknown language or script, an empty `to`, or `phrases` is not a `PhraseFinder`.

    Example:
        >>> [span.text for span in SwitchCriteria(to="zh").find("The answer: 答案, ответ.", "en")]
        ['答案']

    Source: our own; `compare_published` of `code_switching_rate` gives the definition of arXiv:2507.14894.
    """

    to: str | Sequence[str] | None = None
    phrases: PhraseFinder | None = None
    ignore_code: bool = True
    ignore_urls: bool = True
    ignore_glosses: bool = False
    count_latin: bool = False
    han_without_kana: bool = False
    allowed: Iterable[str] = ()
    targets: Targets | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        allowed = (self.allowed,) if isinstance(self.allowed, str) else tuple(self.allowed)
        if not isinstance(self.phrases, PhraseFinder | None):
            raise ValueError(f"phrases must be a PhraseFinder or None, got {self.phrases!r}.")
        object.__setattr__(self, "allowed", allowed)
        object.__setattr__(self, "targets", parse_targets(self.to))

    @property
    def counts_latin(self) -> bool:
        """Whether Latin words inside other scripts count: by request, or because a target is written in Latin."""
        return self.count_latin or (self.targets is not None and "Latn" in self.targets.scripts)

    def applies_to(self, language: str) -> bool:
        """Whether a switch into one of the targets can be recognised in text in this language."""
        known = get_language(language)
        if self.targets is None or not self.targets.scripts <= set(known.scripts):
            return True
        if not self.targets.languages.isdisjoint(self.told_by_forms(known.code)):
            return True
        return self.phrases is not None and not self.targets.languages.isdisjoint(self.phrases.others(known.code))

    @staticmethod
    def told_by_forms(code: str) -> frozenset[str]:
        """The languages that share Han with this one and can be distinguished from it by their character forms."""
        return _HAN_FORMS.get(code, frozenset())

    def find(
        self, response: str, language: str, *, prompt: str | None = None, allowed_languages: Iterable[str] = ()
    ) -> list[Span]:
        """Find the switches of a response, in order: words that are unexpected in `language`, and phrases.

        prompt, allowed_languages: as in `unexpected_spans`.
        """
        shared: dict[str, Any] = {
            "prompt": prompt,
            "ignore_code": self.ignore_code,
            "ignore_urls": self.ignore_urls,
            "allowed": self.allowed,
        }
        further = (allowed_languages,) if isinstance(allowed_languages, str) else tuple(allowed_languages)
        spans = unexpected_spans(
            response,
            language,
            ignore_glosses=self.ignore_glosses,
            count_latin=self.counts_latin,
            han_without_kana=self.han_without_kana,
            allowed_languages=further,
            **shared,
        )
        if self.phrases is not None:
            codes = {get_language(entry).code for entry in further if entry not in SCRIPTS}
            phrases = self.phrases.find(response, language, **shared)
            spans = sorted([*spans, *(one for one in phrases if one.language not in codes)], key=attrgetter("start"))
        return [span for span in spans if self.wants(span.script, span.language, language)]

    def wants(self, script: str, told: str | None, language: str) -> bool:
        """Whether a switch from `language` is a switch into one of the targets.

        Args:
            script: script of the switch.
            told: language of the switch, if it is known.
            language: language of the response.
        """
        if self.targets is None:
            return True
        if told is None:
            return script in self.targets.scripts
        if told in self.targets.languages:
            return True
        return script in self.targets.named and script not in get_language(language).scripts

    def word_share(self, response: str, spans: Sequence[Span]) -> float:
        """The share of a response's words that are inside these spans. Text that is not prose is not counted."""
        if not spans:
            return 0.0
        prose = blank(response, code=self.ignore_code, urls=self.ignore_urls, markup=self.ignore_code)
        held, end = 0.0, 0
        for span in spans:  # a phrase may contain words that were also found by their script
            start = max(span.start, end)
            held += count_words(prose[start : span.end]) if span.end > start else 0.0
            end = max(end, span.end)
        return min(1.0, held / max(count_words(prose), held, 1e-9))


def into(span: Span) -> str:
    """The target of a switch: its language if the script alone does not show it, else its script."""
    return span.language or span.script


def _named_in(text: str) -> list[str]:
    """Split a text at commas, or at spaces if a part between commas is not a language."""
    entries = [entry.strip("[]\"' ") for entry in _BETWEEN.split(text)]
    return [one for entry in entries for one in ([entry] if _is_language(entry) else entry.split())]


def _is_language(text: str) -> bool:
    if text in SCRIPTS:
        return True
    try:
        get_language(text)
    except ValueError:
        return False
    return True
