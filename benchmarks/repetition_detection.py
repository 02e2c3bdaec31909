"""What the search for loops finds: none in ordinary text, those put in on purpose, and where it stops seeing them.

    python benchmarks/repetition_detection.py --corpus FOLDER [--documents FOLDER] [--tokenizer FOLDER]

The corpus is one `<language>.jsonl.gz` per language, with a column `text`; with a tokenizer its paragraphs are also
searched as token ids. Documents are Markdown files anywhere in a folder, with code and tables left in. Python's own
standard library serves as code.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import _rows
from _rows import Row
from transformers import AutoTokenizer

from sae_posttrain.metrics import LoopSettings, find_loop, find_loops, find_repetition
from sae_posttrain.metrics.letters import weight
from sae_posttrain.texts import load_texts

SPLICED = 2_000  # of each kind and language
LONGEST_PERIOD, LONGEST_LOOP = 200, 2_000
EXACT = LoopSettings(fold_digits=False)
TAILS = (
    "\ufffd",
    "\ufffd\ufffd",
    "<|im_end|>",
    "</s>",
    "<|im_en",
    " ...",
    "…",
    "。",
    " \n\n",
    "**",
    ".<|eot_id|>\n",
)


@dataclass(frozen=True)
class Spliced:
    """A paragraph whose last `period` characters were repeated up to a length limit."""

    text: str
    start: int
    period: int  # the smallest one: 'abab' repeated is 'ab' repeated

    @property
    def long_enough(self) -> bool:
        length = len(self.text) - self.start
        return weight(self.text[self.start :]) >= 100 and length >= 4 * self.period


def splice(rng: random.Random, paragraphs: Sequence[str]) -> Spliced:
    text = rng.choice(paragraphs)
    start = len(text) - rng.randint(1, min(LONGEST_PERIOD, len(text)))
    unit = text[start:]
    length = rng.randint(1, LONGEST_LOOP)
    looped = text + (unit * (length // len(unit) + 1))[:length]
    return Spliced(looped, start, (unit + unit).index(unit, 1))


def ordinary(case: str, texts: Sequence[str], joint: str) -> list[Row]:
    """What is found in each text as if it had been cut, and loops at any place of all texts in a row."""
    kinds = Counter(find_repetition(text).kind for text in texts)
    whole = joint.join(texts)
    exact, loops = find_loops(whole, EXACT), find_loops(whole)
    shorter = find_loops(whole, LoopSettings(min_length=75, fold_digits=False))
    return [
        Row(case, "texts", len(texts), "texts"),
        Row(case, "length", len(whole), "characters"),
        Row(case, "end in a loop", kinds["loop"], "texts"),
        Row(case, "end in a near-loop", kinds["near-loop"], "texts"),
        Row(case, "left a loop again", kinds["left"], "texts"),
        Row(case, "loops anywhere", len(exact), "loops"),
        Row(case, "of which white space", sum(not whole[loop.start : loop.end].strip() for loop in exact), "loops"),
        Row(case, "loops anywhere that count", len(loops) - len(exact), "loops"),
        Row(case, "loops anywhere of 75 letters", len(shorter), "loops"),
    ]


def ordinary_ids(case: str, texts: Sequence[str], tokenizer: Any) -> list[Row]:
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    whole = [token for row in ids for token in row]
    return [
        Row(case, "length", len(whole), "ids"),
        Row(case, "end in a loop", sum(find_loop(row) is not None for row in ids), "texts"),
        Row(case, "loops anywhere", len(find_loops(whole)), "loops"),
        Row(case, "loops anywhere of 25 ids", len(find_loops(whole, LoopSettings(min_tokens=25))), "loops"),
    ]


def on_purpose(case: str, rng: random.Random, paragraphs: Sequence[str]) -> list[Row]:
    spliced = [splice(rng, paragraphs) for _ in range(SPLICED)]
    long_enough = [one for one in spliced if one.long_enough]
    short = [one for one in spliced if not one.long_enough]
    loops = [find_loop(one.text) for one in long_enough]
    right = [loop is not None and loop.period == one.period for loop, one in zip(loops, long_enough, strict=True)]
    behind = [find_repetition(f"{one.text}\n{rng.choice(paragraphs)}").kind for one in long_enough]
    tails = [find_loop(one.text + rng.choice(TAILS)) is not None for one in long_enough]
    ended = [find_loop(one.text, ended=True) is not None for one in long_enough]
    return [
        Row(case, "loops of 4 periods and 100 letters", len(long_enough), "loops"),
        Row(case, "of which found", share(loop is not None for loop in loops), "share"),
        Row(case, "of which with their smallest period", share(right), "share"),
        Row(case, "of which found with a tail that is no text", share(tails), "share"),
        Row(case, "of which found though the model ended them", share(ended), "share"),
        Row(case, "of which at the end with a paragraph behind", share(kind == "loop" for kind in behind), "share"),
        Row(case, "of which left again with a paragraph behind", share(kind == "left" for kind in behind), "share"),
        Row(case, "shorter loops found", share(find_loop(one.text) is not None for one in short), "share"),
    ]


def almost(case: str, rng: random.Random, paragraphs: Sequence[str]) -> list[Row]:
    """Loops that are not exact, and rows of numbers that are none."""
    makers: dict[str, Callable[[str, int], list[str]]] = {
        "numbered lines": lambda line, repeats: _numbered(line, rng.randint(1, 500), repeats),
        "numbered lines from 95 to 105 on": lambda line, repeats: _numbered(line, 95, max(11, repeats)),
        "lines with random numbers": lambda line, repeats: [
            f"{rng.randint(1, 9999)}: {line}" for _ in range(max(9, repeats))
        ],
        "lines with varying punctuation": lambda line, repeats: [
            line.rstrip(".") + rng.choice(".!?…") for _ in range(repeats)
        ],
        "lines with one word of 5 to 15 replaced": lambda line, repeats: [
            _replaced(rng, line, paragraphs) for _ in range(repeats)
        ],
        "lines reversed each 10th time": lambda line, repeats: [
            line if number % 10 else line[::-1] for number in range(1, repeats + 1)
        ],
        "lines that differ": lambda line, repeats: [rng.choice(paragraphs)[: len(line)] for _ in range(repeats)],
    }
    rows = []
    for name, make in makers.items():
        kinds = Counter()  # type: ignore[var-annotated]
        for _ in range(SPLICED // 4):
            line = rng.choice(paragraphs)[:LONGEST_PERIOD].replace("\n", " ")
            lines = make(line, max(4, LONGEST_LOOP // len(line) + 1))
            kinds[find_repetition("\n".join(lines)).kind] += 1
        total = sum(kinds.values())
        rows += [
            Row(case, f"{name}: loops", round(kinds["loop"] / total, 4), "share"),
            Row(case, f"{name}: near-loops", round(kinds["near-loop"] / total, 4), "share"),
        ]
    return rows


def _numbered(line: str, first: int, count: int) -> list[str]:
    return [f"{number}. {line}" for number in range(first, first + count)]


def _replaced(rng: random.Random, line: str, paragraphs: Sequence[str]) -> str:
    """One word (a character, where the line has no spaces) of every 5 to 15 taken from another paragraph."""
    joint = " " if " " in line else ""
    words, others = (text.split() if joint else list(text) for text in (line, rng.choice(paragraphs)))
    place = rng.randint(0, 14)
    while place < len(words):
        words[place] = rng.choice(others)
        place += rng.randint(5, 15)
    return joint.join(words)


def share(hits: Iterable[bool]) -> float:
    return round(fmean(hits), 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True, help="folder of <language>.jsonl.gz")
    parser.add_argument("--documents", type=Path, help="folder with Markdown files")
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
    if args.documents:
        for folder in sorted(path for path in args.documents.iterdir() if path.is_dir()):
            texts = read_all(path for kind in ("*.md", "*.mdx") for path in sorted(folder.rglob(kind)))
            rows += ordinary(f"documents: {folder.name}", texts, "\n") if texts else []
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    rows += ordinary("code", read_all(files), "\n")
    for row in rows:
        print(f"{row.case:44}{row.measure:48}{row.value:12} {row.unit}")
    print(_rows.write("repetition_detection", rows))


def read_all(paths: Iterable[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


if __name__ == "__main__":
    main()
