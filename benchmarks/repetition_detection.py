"""What the search for loops finds: none in ordinary text, those put in on purpose, and where it stops seeing them.

    python benchmarks/repetition_detection.py --corpus FOLDER [--tokenizer FOLDER]

The corpus is one `<language>.jsonl.gz` per language, with a column `text`; with a tokenizer its paragraphs are also
searched as token ids. Python's own standard library serves as code.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import _rows
from _rows import Row
from transformers import AutoTokenizer

from sae_posttrain.metrics import find_loop, find_loops, fold_digits
from sae_posttrain.texts import load_texts

SPLICED = 2_000  # of each kind and language
LONGEST_PERIOD, LONGEST_LOOP = 200, 2_000


@dataclass(frozen=True)
class Spliced:
    """A paragraph whose last `period` characters were repeated up to a length limit."""

    text: str
    start: int
    period: int  # the smallest one: 'abab' repeated is 'ab' repeated

    @property
    def long_enough(self) -> bool:
        return len(self.text) - self.start >= max(100, 4 * self.period)


def splice(rng: random.Random, paragraphs: Sequence[str]) -> Spliced:
    text = rng.choice(paragraphs)
    start = len(text) - rng.randint(1, min(LONGEST_PERIOD, len(text)))
    unit = text[start:]
    length = rng.randint(1, LONGEST_LOOP)
    looped = text + (unit * (length // len(unit) + 1))[:length]
    return Spliced(looped, start, (unit + unit).index(unit, 1))


def ordinary(case: str, texts: Sequence[str], joint: str) -> list[Row]:
    """Loops at the ends of texts, and at any place of all texts in a row, as if cut there."""
    whole = joint.join(texts)
    loops, folded = find_loops(whole), find_loops(fold_digits(whole))
    return [
        Row(case, "texts", len(texts), "texts"),
        Row(case, "length", len(whole), "characters"),
        Row(case, "end in a loop", sum(find_loop(text) is not None for text in texts), "texts"),
        Row(case, "end in a loop, digits folded", sum(find_loop(fold_digits(t)) is not None for t in texts), "texts"),
        Row(case, "loops anywhere", len(loops), "loops"),
        Row(case, "of which white space", sum(not whole[loop.start : loop.end].strip() for loop in loops), "loops"),
        Row(case, "loops anywhere, digits folded", len(folded), "loops"),
        Row(case, "loops anywhere of 75 characters", len(find_loops(whole, min_length=75)), "loops"),
    ]


def ordinary_ids(case: str, texts: Sequence[str], tokenizer: Any) -> list[Row]:
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    whole = [token for row in ids for token in row]
    return [
        Row(case, "length", len(whole), "ids"),
        Row(case, "end in a loop", sum(find_loop(row) is not None for row in ids), "texts"),
        Row(case, "loops anywhere", len(find_loops(whole)), "loops"),
        Row(case, "loops anywhere of 25 ids", len(find_loops(whole, min_length=25)), "loops"),
    ]


def on_purpose(case: str, rng: random.Random, paragraphs: Sequence[str]) -> list[Row]:
    spliced = [splice(rng, paragraphs) for _ in range(SPLICED)]
    long_enough = [one for one in spliced if one.long_enough]
    short = [one for one in spliced if not one.long_enough]
    loops = [find_loop(one.text) for one in long_enough]
    right = [loop is not None and loop.period == one.period for loop, one in zip(loops, long_enough, strict=True)]
    ended = [f"{one.text}\n{rng.choice(paragraphs)}" for one in long_enough]
    return [
        Row(case, "loops of 4 periods and 100 characters", len(long_enough), "loops"),
        Row(case, "of which found", share(loop is not None for loop in loops), "share"),
        Row(case, "of which with their smallest period", share(right), "share"),
        Row(
            case,
            "of which found with a paragraph behind",
            share(find_loop(text) is not None for text in ended),
            "share",
        ),
        Row(case, "shorter loops found", share(find_loop(one.text) is not None for one in short), "share"),
    ]


def almost(case: str, rng: random.Random, paragraphs: Sequence[str]) -> list[Row]:
    """Loops that are not exact: a line that is numbered, and a line that is reversed each 10th time."""
    numbered, disturbed = [], []
    for _ in range(SPLICED):
        line = rng.choice(paragraphs)[:LONGEST_PERIOD]
        first, repeats = rng.randint(1, 500), LONGEST_LOOP // len(line) + 1
        lines = [f"{number}. {line}\n" for number in range(first, first + repeats)]
        numbered.append("".join(lines)[:LONGEST_LOOP])
        turn = rng.randrange(10)
        disturbed.append("".join(f"{line if (i + turn) % 10 else line[::-1]}\n" for i in range(repeats))[:LONGEST_LOOP])
    return [
        Row(case, "numbered lines found", share(find_loop(text) is not None for text in numbered), "share"),
        Row(case, "the same, digits folded", share(find_loop(fold_digits(t)) is not None for t in numbered), "share"),
        Row(case, "lines reversed each 10th time found", share(find_loop(t) is not None for t in disturbed), "share"),
    ]


def share(hits: Iterable[bool]) -> float:
    return round(fmean(hits), 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True, help="folder of <language>.jsonl.gz")
    parser.add_argument("--tokenizer", help="folder or hub id")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None
    rng = random.Random(0)
    rows = []
    for path in sorted(args.corpus.glob("*.jsonl.gz")):
        language = path.name.split(".")[0]
        paragraphs = load_texts(path)
        rows += ordinary(f"{language}: paragraphs", paragraphs, "\n\n")
        if tokenizer is not None:
            rows += ordinary_ids(f"{language}: paragraphs as ids", paragraphs, tokenizer)
        rows += on_purpose(f"{language}: last 1 to {LONGEST_PERIOD} characters repeated", rng, paragraphs)
        rows += almost(f"{language}: lines nearly repeated", rng, paragraphs)
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    rows += ordinary("code", [path.read_text(encoding="utf-8", errors="ignore") for path in files], "\n")
    for row in rows:
        print(f"{row.case:44}{row.measure:42}{row.value:12} {row.unit}")
    print(_rows.write("repetition_detection", rows))


if __name__ == "__main__":
    main()
