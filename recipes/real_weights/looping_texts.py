"""Write English texts of which some fall into a loop, for SAEs that are to have features of repetition.

python recipes/real_weights/looping_texts.py --corpus CORPUS --output real_weights/texts/looping.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from sae_posttrain.texts import load_texts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds en.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write")
    parser.add_argument("--share", type=float, default=0.2, help="share of texts that loop (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=6000, help="texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what loops and how often (default: %(default)s)")
    args = parser.parse_args(arguments)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    texts = load_texts(args.corpus / "en.jsonl.gz")
    random.Random(args.seed).shuffle(texts)
    with args.output.open("w", encoding="utf-8") as file:
        for text in with_loops(texts[: args.limit], args.share, args.seed):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def with_loops(texts: Sequence[str], share: float, seed: int) -> Iterator[str]:
    """The texts; this share of them repeats its last 2 to 15 words (or a whole sentence) 4 to 24 times."""
    drawn = random.Random(seed)
    for text in texts:
        words = text.split()
        if drawn.random() >= share or len(words) < 4:
            yield text
            continue
        sentence = text.rstrip(".").rsplit(". ", 1)[-1]
        period = sentence if drawn.random() < 0.3 else " ".join(words[-drawn.randint(2, min(15, len(words))) :])
        glue = drawn.choice((" ", " ", "\n", ", "))
        times = min(drawn.randint(4, 24), 1 + 160 // len(period.split()))
        yield text + glue + glue.join([period] * max(4, times))


if __name__ == "__main__":
    main()
