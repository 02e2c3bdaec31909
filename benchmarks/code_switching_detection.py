"""What the search for phrases in another language finds: clauses spliced in on purpose, and what is in ordinary text.

    python benchmarks/code_switching_detection.py --corpus FOLDER

The corpus is one `<language>.jsonl.gz` per language, with a column `text`. The thresholds were chosen on every other
text of en, fr and de, beginning with the first; what is measured here are the others. Also measured: how often the
identifier behind the line pass rate knows a line's language, of the benchmark's fifteen.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import _rows
import regex
from _rows import Row

from sae_posttrain.metrics import PhraseFinder, Span, langid_identifier
from sae_posttrain.texts import load_texts

SPLICED = 500  # of each length and pair of languages
LENGTHS = ((4, 6), (7, 12), (13, 25))  # words
LATIN = ("de", "en", "fr")
MIN_HOST = 30  # words of the text that is spliced into
SHOWN = 5
WORD = regex.compile(r"\S*\p{L}\S*")


@dataclass(frozen=True)
class Spliced:
    """A paragraph with words of another language put in at [start:end]."""

    text: str
    language: str
    other: str
    start: int
    end: int

    def met_by(self, span: Span) -> bool:
        return span.start < self.end and span.end > self.start


def splice(
    rng: random.Random, hosts: Sequence[str], guests: Sequence[str], words: int, pair: tuple[str, str]
) -> Spliced:
    host, guest = rng.choice(hosts), rng.choice(guests)
    places = [match.start() for match in WORD.finditer(host)]
    at = rng.choice([*places, len(host)])
    matches = list(WORD.finditer(guest))
    first = rng.randint(0, len(matches) - words)
    piece = guest[matches[first].start() : matches[first + words - 1].end()]
    return Spliced(f"{host[:at]} {piece} {host[at:]}", *pair, at + 1, at + 1 + len(piece))


def on_purpose(rng: random.Random, finder: PhraseFinder, texts: dict[str, list[str]]) -> list[Row]:
    rows = []
    every: list[tuple[Spliced, list[Span]]] = []
    hosts = {code: [text for text in texts[code] if len(WORD.findall(text)) >= MIN_HOST] for code in LATIN}
    for low, high in LENGTHS:
        found = []
        for pair in ((one, other) for one in LATIN for other in LATIN if one != other):
            made = [splice(rng, hosts[pair[0]], hosts[pair[1]], rng.randint(low, high), pair) for _ in range(SPLICED)]
            found += [(one, finder.find(one.text, one.language)) for one in made]
        every += found
        rows += _quality(f"{low} to {high} words of {'/'.join(LATIN)} in one another", found)
    return rows + _quality("all of them", every)


def _quality(case: str, found: Sequence[tuple[Spliced, list[Span]]]) -> list[Row]:
    met = [[span for span in spans if one.met_by(span)] for one, spans in found]
    named = [any(span.language == one.other for span in spans) for (one, _), spans in zip(found, met, strict=True)]
    apart = [
        abs(span.start - one.start) + abs(span.end - one.end)
        for (one, _), spans in zip(found, met, strict=True)
        for span in spans[:1]
    ]
    return [
        Row(case, "clauses", len(found), "clauses"),
        Row(case, "recall", share(map(bool, met)), "share"),
        Row(case, "recall, with the right language", share(named), "share"),
        Row(case, "precision of phrases", sum(map(len, met)) / sum(len(spans) for _, spans in found), "share"),
        Row(case, "bounds off by, both together", round(fmean(apart), 1), "characters"),
    ]


def ordinary(finder: PhraseFinder, code: str, texts: Sequence[str]) -> list[Row]:
    """Phrases in text as it is; some of it is in another language indeed, so they are shown for a look."""
    found = [(text, spans) for text in texts if (spans := finder.find(text, code))]
    for _, spans in found[:: max(1, len(found) // SHOWN)]:
        print(f"  in {code}, {spans[0].language}: {' '.join(spans[0].text.split())[:120]}")
    return [
        Row(f"{code}: paragraphs as they are", "texts", len(texts), "texts"),
        Row(f"{code}: paragraphs as they are", "with a phrase in another language", len(found), "texts"),
    ]


def lines_known(code: str, texts: Sequence[str]) -> list[Row]:
    identify = langid_identifier()
    lines = [line for text in texts for line in text.split("\n") if len(line.split()) >= 5 or code == "zh"]
    return [Row(f"{code}: lines", "language identified", share(identify(line) == code for line in lines), "share")]


def share(hits: Iterable[bool]) -> float:
    return round(fmean(hits), 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True, help="folder of <language>.jsonl.gz")
    args = parser.parse_args()
    texts = {path.name.split(".")[0]: load_texts(path) for path in sorted(args.corpus.glob("*.jsonl.gz"))}
    held_out = {code: found[1::2] for code, found in texts.items()}
    rng, finder = random.Random(0), PhraseFinder()
    rows = on_purpose(rng, finder, held_out)
    for code, found in held_out.items():
        rows += ordinary(finder, code, found)
    for code, found in texts.items():
        rows += lines_known(code, found)
    for row in rows:
        print(f"{row.case:44}{row.measure:36}{row.value:12.4f} {row.unit}")
    print(_rows.write("code_switching_detection", rows))


if __name__ == "__main__":
    main()
