"""Write the texts of the Gemma experiment from a folder of paragraphs, the same for every arm.

python recipes/real_weights/texts.py --corpus CORPUS --model models/gemma3-270m-cut --output real_weights/texts
Writes sae.jsonl, CODE.jsonl for discovery, train.jsonl, held_out.jsonl and prompts.jsonl. The model's tokenizer decides
where a paragraph is split into prompt and answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sae_posttrain.metrics import unexpected_spans
from sae_posttrain.texts import load_texts

LANGUAGES = ("en", "zh", "ru", "ko")
HELD_OUT = 10  # one paragraph in so many, by hash
SHORTEST = 60  # bytes of a paragraph: shorter ones are headings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of CODE.jsonl.gz files with a `text` column")
    parser.add_argument("--model", required=True, help="folder or hub id of the model, for its tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), help="codes (default: %(default)s)")
    parser.add_argument(
        "--shortest", type=int, default=64, help="tokens that a row has at least (default: %(default)s)"
    )
    parser.add_argument("--discovery", type=int, default=300, help="paragraphs per language for discovery")
    parser.add_argument("--train", type=int, default=400, help="paragraphs per language to train on")
    parser.add_argument("--held-out", type=int, default=100, help="paragraphs per language to measure on")
    parser.add_argument(
        "--seed",
        type=int,
        help="draw the texts for SAEs and discovery anew; those to train and to measure on stay the same (default: the "
        "order of the texts' hashes)",
    )
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    for code in args.languages:
        train[code], held_out[code] = split(load_texts(args.corpus / f"{code}.jsonl.gz"), code)
        discovery = drawn(train[code], args.seed)[: args.discovery]
        write(args.output / f"{code}.jsonl", ({"text": text} for text in discovery))
    write(args.output / "sae.jsonl", ({"text": text} for text in drawn(list(interleaved(train)), args.seed)))
    write(
        args.output / "train.jsonl",
        interleaved({code: rows(train[code], code, tokenizer, args.train, args.shortest) for code in train}),
    )
    measured = {code: rows(held_out[code], code, tokenizer, args.held_out, args.shortest) for code in held_out}
    write(args.output / "held_out.jsonl", chain.from_iterable(measured.values()))
    asked = ({"prompt": row["prompt"], "language": row["language"]} for row in chain.from_iterable(measured.values()))
    write(args.output / "prompts.jsonl", asked)


def drawn(texts: list[str], seed: int | None) -> list[str]:
    """The texts in the order of a seed; as they are without one."""
    order = list(texts)
    if seed is not None:
        random.Random(seed).shuffle(order)
    return order


def split(texts: Iterable[str], code: str) -> tuple[list[str], list[str]]:
    """Paragraphs to train on and held out, each in the order of its hash, without those that hold another script."""
    train: list[str] = []
    held_out: list[str] = []
    distinct = {hashlib.sha256(text.encode()).digest(): text for text in texts}
    for digest in sorted(distinct):
        text = distinct[digest]
        if len(text.encode()) >= SHORTEST and not unexpected_spans(text, code):
            (held_out if digest[-1] % HELD_OUT == 0 else train).append(text)
    return train, held_out


def rows(texts: Iterable[str], code: str, tokenizer: Any, count: int, shortest: int) -> list[dict[str, Any]]:
    """The first `count` rows for `sft` and for measuring: a third of a paragraph is the prompt, the rest the answer."""
    parts = (split_paragraph(text, tokenizer, shortest) for text in texts)
    return [
        {"prompt": part[0], "completion": part[1], "language": code}
        for part in islice((part for part in parts if part), count)
    ]


def split_paragraph(text: str, tokenizer: Any, shortest: int) -> tuple[str, str] | None:
    """Cut behind the first third, where a token ends that prompt and answer are tokenised apart as together.

    The answer keeps its leading space. None where there is no such place in the second third, and for a text of fewer
    tokens than `shortest`.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoded["input_ids"]) < shortest:
        return None
    for place, (start, _) in enumerate(encoded["offset_mapping"]):
        if len(text) <= 3 * start <= 2 * len(text):
            parts = text[:start], text[start:]
            ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
            if ids == [encoded["input_ids"][:place], encoded["input_ids"][place:]]:
                return parts
    return None


def interleaved(by_language: dict[str, list[Any]]) -> Iterable[Any]:
    """One entry of each language after the other, until all are used up."""
    return (entry for entries in zip_longest(*by_language.values()) for entry in entries if entry is not None)


def write(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


if __name__ == "__main__":
    main()
