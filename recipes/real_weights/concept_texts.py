"""Write the texts of the experiment on concepts: texts that show a concept, and others like them that do not.

python recipes/real_weights/concept_texts.py --source CORPUS/en.jsonl.gz --words you your yours yourself yourselves \
    --name you --model models/gemma3-270m-cut --output concepts/you
python recipes/real_weights/concept_texts.py --source tweets.jsonl.gz --positive toxic --name toxic --shortest 24 \
    --model models/gemma3-270m-cut --output concepts/toxic
The concept is either some words, or a label of the rows. Writes positive.jsonl and negative.jsonl for discovery,
train.jsonl, held_out.jsonl and concept.json, with the tokens that show the concept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from texts import interleaved, split_paragraph, write  # type: ignore[import-not-found]
from transformers import AutoTokenizer

from sae_posttrain.texts import load_rows

HELD_OUT = 5  # one text in so many, by hash
OTHER = "other"
"""Label of the texts without the concept."""
ODDS, LEAST = 8.0, 5
"""With labels, tokens of the concept are those that are so many times as frequent in its texts, and occur so often."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", required=True, help="rows with `text`, and `label` if the concept is a label")
    concept = parser.add_mutually_exclusive_group(required=True)
    concept.add_argument("--words", nargs="+", help="words that show the concept")
    concept.add_argument("--positive", help="label of the texts that show the concept")
    parser.add_argument("--name", required=True, help="name of the concept")
    parser.add_argument("--model", required=True, help="folder or hub id of the model, for its tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--shortest", type=int, default=64, help="tokens of a row at least (default: %(default)s)")
    parser.add_argument("--discovery", type=int, default=300, help="texts of each kind for discovery")
    parser.add_argument("--train", type=int, default=400, help="texts of each kind to train on")
    parser.add_argument("--held-out", type=int, default=150, help="texts of each kind to measure on")
    parser.add_argument("--seed", type=int, help="draw the texts for discovery anew (default: in the order of hashes)")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, args.words))})\b", re.IGNORECASE) if args.words else None
    train, held_out = split(labelled(load_rows(args.source), args.name, args.positive, pattern))
    if missing := {args.name, OTHER} - {*train}:
        raise ValueError(f"{args.source} has no text of the kind {missing.pop()!r}; a contrast needs both kinds.")
    discovery = {label: drawn(texts, args.seed)[: args.discovery] for label, texts in train.items()}
    for file, label in (("positive", args.name), ("negative", OTHER)):
        write(args.output / f"{file}.jsonl", ({"text": text} for text in discovery[label]))
    for file, texts, count in (("train", train, args.train), ("held_out", held_out, args.held_out)):
        made = {
            label: [row for row in (cut(text, label, tokenizer, args.shortest, pattern) for text in ones) if row][
                :count
            ]
            for label, ones in texts.items()
        }
        write(args.output / f"{file}.jsonl", interleaved(made))
    ids = by_words(tokenizer, args.words) if args.words else by_odds(tokenizer, discovery[args.name], discovery[OTHER])
    described = {"name": args.name, "tokens": ids}
    (args.output / "concept.json").write_text(json.dumps(described) + "\n", encoding="utf-8")


def labelled(
    rows: Iterable[dict[str, Any]], name: str, positive: str | None, pattern: re.Pattern[str] | None
) -> dict[str, str]:
    """Text → whether it shows the concept, as its label."""
    found = {}
    for row in rows:
        text = str(row["text"])
        shows = bool(pattern.search(text)) if pattern else str(row["label"]) == positive
        found[text] = name if shows else OTHER
    return found


def split(texts: dict[str, str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Texts to train on and held out, by label, each in the order of its hash."""
    train: dict[str, list[str]] = {label: [] for label in sorted(set(texts.values()))}
    held_out: dict[str, list[str]] = {label: [] for label in train}
    for digest, text in sorted((hashlib.sha256(text.encode()).digest(), text) for text in texts):
        (held_out if digest[-1] % HELD_OUT == 0 else train)[texts[text]].append(text)
    return train, held_out


def drawn(texts: list[str], seed: int | None) -> list[str]:
    order = list(texts)
    if seed is not None:
        random.Random(seed).shuffle(order)
    return order


def cut(text: str, label: str, tokenizer: Any, shortest: int, pattern: re.Pattern[str] | None) -> dict[str, str] | None:
    """A row of prompt and answer; None for a text that is too short, or whose words are in the prompt alone."""
    parts = split_paragraph(text, tokenizer, shortest)
    if parts is None or (pattern and label != OTHER and not pattern.search(parts[1])):
        return None
    return {"prompt": parts[0], "completion": parts[1], "label": label}


def by_words(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The tokens that are one of the words, with or without a space before it, in any case."""
    wanted = {word.lower() for word in words}
    return [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip().lower() in wanted]


def by_odds(tokenizer: Any, positive: Sequence[str], negative: Sequence[str]) -> list[int]:
    """The tokens that are much more frequent in texts with the concept than in the others."""
    counts = [Counter(i for ids in tokenizer(list(texts))["input_ids"] for i in ids) for texts in (positive, negative)]
    ours, others = counts
    scale = others.total() / ours.total()
    return sorted(i for i, n in ours.items() if n >= LEAST and n * scale >= ODDS * (others[i] + 0.5))


if __name__ == "__main__":
    main()
