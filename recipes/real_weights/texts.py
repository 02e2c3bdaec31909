"""Write the texts of the Gemma experiment from a folder of paragraphs, the same for every arm.

python recipes/real_weights/texts.py --corpus CORPUS --output real_weights/texts
Writes sae.jsonl, CODE.jsonl for discovery, train.jsonl, held_out.jsonl and prompts.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from sae_posttrain.metrics import unexpected_spans
from sae_posttrain.texts import load_texts

LANGUAGES = ("en", "zh", "ru", "ko")
HELD_OUT = 10  # one paragraph in so many, by hash
SHORTEST = 60  # bytes of a paragraph: shorter ones are headings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of CODE.jsonl.gz files with a `text` column")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), help="codes (default: %(default)s)")
    parser.add_argument("--discovery", type=int, default=300, help="paragraphs per language for discovery")
    parser.add_argument("--train", type=int, default=400, help="paragraphs per language to train on")
    parser.add_argument("--held-out", type=int, default=100, help="paragraphs per language to measure on")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    for code in args.languages:
        train[code], held_out[code] = split(load_texts(args.corpus / f"{code}.jsonl.gz"), code)
        write(args.output / f"{code}.jsonl", ({"text": text} for text in train[code][: args.discovery]))
    write(args.output / "sae.jsonl", ({"text": text} for text in interleaved(train)))
    write(args.output / "train.jsonl", interleaved({code: rows(train[code][: args.train], code) for code in train}))
    measured = {code: rows(held_out[code][: args.held_out], code) for code in held_out}
    write(args.output / "held_out.jsonl", chain.from_iterable(measured.values()))
    asked = ({"prompt": row["prompt"], "language": row["language"]} for row in chain.from_iterable(measured.values()))
    write(args.output / "prompts.jsonl", asked)


def split(texts: Iterable[str], code: str) -> tuple[list[str], list[str]]:
    """Paragraphs to train on and held out, each in the order of its hash, without those that hold another script."""
    train: list[str] = []
    held_out: list[str] = []
    distinct = {hashlib.sha256(text.encode()).digest(): text for text in texts}
    for digest in sorted(distinct):
        text = distinct[digest]
        if len(text.encode()) >= SHORTEST and all(split_paragraph(text)) and not unexpected_spans(text, code):
            (held_out if digest[-1] % HELD_OUT == 0 else train).append(text)
    return train, held_out


def split_paragraph(text: str) -> tuple[str, str]:
    """The first third and the rest, which keeps its leading space; cut at a space where one is near."""
    third = len(text) // 3
    space = text.find(" ", third, 2 * third)
    cut = third if space < 0 else space
    return text[:cut].strip(), text[cut:]


def rows(texts: Iterable[str], code: str) -> list[dict[str, Any]]:
    """Rows for `sft` and for measuring: the first third of a paragraph is the prompt, the rest the answer."""
    parts = map(split_paragraph, texts)
    return [{"prompt": prompt, "completion": answer, "language": code} for prompt, answer in parts]


def interleaved(by_language: dict[str, list[Any]]) -> Iterable[Any]:
    """One entry of each language after the other, until all are used up."""
    return (entry for entries in zip_longest(*by_language.values()) for entry in entries if entry is not None)


def write(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


if __name__ == "__main__":
    main()
