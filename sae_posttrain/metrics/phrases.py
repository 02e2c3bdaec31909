"""Find phrases in another language of the same script, such as a French clause inside English."""

# N words, K other languages

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import regex

from ..languages import SCRIPTS, get_language, script_counts
from .identification import BENCHMARK_LANGUAGES, Scorer, langid_scorer
from .prose import blank
from .scripts import Span

# These were chosen on half of the texts of benchmarks/code_switching_detection.py. Its results are for the other half.
MIN_WORDS = 4
MIN_EVIDENCE = 20.0  # nats
_PER_WORD = 8.0  # largest evidence of one word, in nats, so that no single word decides
_PER_CAPITALISED = 2.0  # the same for a capitalised word, which is mostly a name
_BY_SMALL = 0.5  # share of the required evidence that must come from words that begin with a lower-case letter
_ENDS = np.float32(1000)  # against a word in a script that the other language is not written in
_LOST = 15.0  # this much evidence against a phrase ends it, in nats
# Words in identifiers, paths, options and addresses are not evidence: user_name, fast.ai, --save-dev, types@beta, f(x).
_WORD = regex.compile(
    r"\p{L}(?<!(?:[\w@/\\=#$&%~<\-]|\w[_.:])\p{L})[\p{L}\p{M}]*+(?:['’\-]\p{L}[\p{L}\p{M}]*+)*+(?![\w@/\\=(\[]|[.:_]\w|::)"
)
# These end a clause: a blank line, a list item, a heading, a table cell, brackets, emphasis, a CJK comma.
_BREAK = regex.compile(r"\n[ \t]*+(?:\n|[-*+>#]|\d{1,3}[.)][ \t])|[|*、]|\b_|_\b")


class PhraseFinder:
    """Finds the phrases of a response that are in another language than the response should be.

    Each word votes with its log-likelihood ratio between the other language and the response's own. A phrase is a run
    of words whose votes add up to `min_evidence`. Capitalised words (mostly names) have small votes, and words with a
    capital letter inside have none. The ends of a phrase can be off by a word or two.

    Args:
        among: the other languages to look for, if they are written in the response's script or in Latin letters.
        scorer: returns how likely a word is in each language. Default: py3langid. It is called once for each distinct
            word.
        min_words: smallest number of words of a phrase.
        min_evidence: smallest evidence for a phrase: a log-likelihood ratio, in nats.

    Raises: ValueError for an unknown language.
    """

    def __init__(
        self,
        among: Iterable[str] = BENCHMARK_LANGUAGES,
        *,
        scorer: Scorer | None = None,
        min_words: int = MIN_WORDS,
        min_evidence: float = MIN_EVIDENCE,
    ) -> None:
        self.among = tuple(sorted({get_language(code).code for code in among}))
        self.scorer = scorer
        self.min_words = min_words
        self.min_evidence = min_evidence
        self._others: dict[str, tuple[str, ...]] = {}
        self._voters: dict[str, Callable[[str], np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_voters": {}}  # closures cannot be pickled; another process makes them again

    def find(
        self,
        response: str,
        language: str,
        *,
        prompt: str | None = None,
        ignore_code: bool = True,
        ignore_urls: bool = True,
        allowed: Iterable[str] = (),
    ) -> list[Span]:
        """The phrases of `response` in other languages than `language`, in order; options as in `unexpected_spans`.

        Words that occur in the prompt have no vote.

        Raises: ValueError, ImportError: as `langid_scorer`.
        """
        own = get_language(language)
        others = self.others(own.code)
        entries = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        terms = tuple(entry for entry in entries if entry not in SCRIPTS)
        text = blank(response, code=ignore_code, urls=ignore_urls, markup=ignore_code, terms=terms)
        words = list(_WORD.finditer(text))
        if "`" in response:
            words = [word for word in words if not _beside_code(response, *word.span())]
        if not others or len(words) < self.min_words:
            return []
        vote = self._voter(own.code, others)
        quoted = {word.casefold() for word in _WORD.findall(prompt)} if prompt else ()
        silent = np.zeros(len(others), dtype=np.float32)
        votes_NK = np.stack([silent if word[0].casefold() in quoted else vote(word[0]) for word in words])
        spans = []
        for first, last, which in self._phrases(votes_NK, text, words):
            start, end = words[first].start(), words[last].end()
            other = get_language(others[which])
            spans.append(Span(start, end, other.scripts[0], response[start:end], other.code))
        return spans

    def others(self, language: str) -> tuple[str, ...]:
        """The languages to look for in responses in `language`: those that the script alone cannot distinguish."""
        if language not in self._others:
            written = {*get_language(language).scripts, "Latn"}
            wanted = (code for code in self.among if code != language and get_language(code).scripts[0] in written)
            self._others[language] = tuple(wanted)
        return self._others[language]

    def _voter(self, own: str, others: Sequence[str]) -> Callable[[str], np.ndarray]:
        if own not in self._voters:
            scorer = self.scorer or langid_scorer([own, *others])

            @lru_cache(maxsize=1 << 17)
            def vote(word: str) -> np.ndarray:
                if any(char.isupper() for char in word[1:]):
                    return np.zeros(len(others), dtype=np.float32)
                script = next(iter(script_counts(word[0])), None)
                scores = scorer(f" {word} ")
                limit = _PER_CAPITALISED if word[0].isupper() else _PER_WORD
                try:
                    votes = [scores[code] - scores[own] for code in others]
                except KeyError as error:
                    raise ValueError(f"the scorer returned {sorted(scores)}, but no score for {error}.") from error
                clipped = np.clip(np.asarray(votes, dtype=np.float32), -limit, limit)
                return np.where([script in get_language(code).scripts for code in others], clipped, -_ENDS)

            self._voters[own] = vote
        return self._voters[own]

    def _phrases(
        self, votes_NK: np.ndarray, text: str, words: Sequence[regex.Match[str]]
    ) -> list[tuple[int, int, int]]:
        """First word, last word and language of each phrase. Of overlapping phrases, the strongest is kept."""
        total_NK = np.concatenate([np.zeros_like(votes_NK[:1]), votes_NK.cumsum(axis=0)])
        rise_K = (total_NK - np.minimum.accumulate(total_NK)).max(axis=0)
        if not (rise_K >= self.min_evidence).any():
            return []
        clauses = [(begin, end) for begin, end in _clauses(text, words) if end - begin >= self.min_words]
        found = []
        for which in map(int, np.flatnonzero(rise_K >= self.min_evidence)):
            votes = votes_NK[:, which].tolist()
            found += [
                (evidence, begin + first, begin + last, which)
                for begin, end in clauses
                for evidence, first, last in _stretches(votes[begin:end])
                if evidence >= self.min_evidence and last - first + 1 >= self.min_words
            ]
        kept: list[tuple[int, int, int]] = []
        for _, first, last, which in sorted(found, reverse=True):
            if any(last >= other_first and first <= other_last for other_first, other_last, _ in kept):
                continue
            small = [votes_NK[n, which] for n in range(first, last + 1) if not words[n][0][0].isupper()]
            if sum(vote > 0 for vote in small) > 1 and sum(small) >= self.min_evidence * _BY_SMALL:
                kept.append((first, last, which))
        return sorted(kept)


def _beside_code(response: str, start: int, end: int) -> bool:
    """Whether a word is part of a longer word that is partly code: `g`reater."""
    return response[start - 1 : start] == "`" or response[end : end + 1] == "`"


def _clauses(text: str, words: Sequence[regex.Match[str]]) -> list[tuple[int, int]]:
    """The clauses of a text, as (index of the first word, index after the last). A phrase is within one clause."""
    starts = [word.start() for word in words]
    cuts = {bisect_left(starts, match.end()) for match in _BREAK.finditer(text)}
    bounds = sorted({0, len(words), *cuts})
    return list(pairwise(bounds))


def _stretches(votes: Sequence[float]) -> Iterator[tuple[float, int, int]]:
    """Runs of words with more votes for than against, each up to its highest sum, as (evidence, first, last)."""
    running = best = 0.0
    first = last = 0
    for place, vote in enumerate(votes):
        if running <= 0:
            running, best, first = 0.0, 0.0, place
        running += vote
        if running > best:
            best, last = running, place
        elif best > 0 and (running <= 0 or best - running > _LOST):
            yield best, first, last
            running = best = 0.0
    if best > 0:
        yield best, first, last
