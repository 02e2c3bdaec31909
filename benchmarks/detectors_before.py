"""How long the detectors take beside those of another commit, in the same rounds.

    git worktree add ../before COMMIT
    python benchmarks/detectors_before.py ../before [--corpus FOLDER]

The corpus is one `<language>.jsonl.gz` per language, with a column `text`; its paragraphs are joined to responses.
Without it the responses are made up as in `detectors.py`, which have few numbers and repeat nothing.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import _rows
from _timing import Timing, interleaved, table
from detectors import ALPHABETS, LENGTH, TOKENS, each, made_up, megabytes

from sae_posttrain import metrics
from sae_posttrain.texts import load_texts

RESPONSES = 64


def metrics_of(folder: Path) -> ModuleType:
    """`sae_posttrain.metrics` of another checkout, beside the one that is loaded."""
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "sae_posttrain"}
    sys.path.insert(0, str(folder))
    try:
        other = importlib.import_module("sae_posttrain.metrics")
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] == "sae_posttrain"]:
            del sys.modules[name]
        sys.modules.update(own)
    if not str(other.__file__).startswith(str(folder)):
        raise ValueError(f"{folder} holds no sae_posttrain; metrics came from {other.__file__}.")
    return other


def responses_of(paragraphs: Sequence[str], rng: random.Random) -> list[str]:
    """Paragraphs in any order, joined and cut to the usual length."""
    found = []
    for _ in range(RESPONSES):
        text = ""
        while len(text) < LENGTH:
            text += rng.choice(paragraphs) + "\n\n"
        found.append(text[:LENGTH])
    return found


def compare(case: str, responses: Sequence[Any], before: ModuleType, rounds: int) -> list[Timing]:
    rows = []
    of_text = isinstance(responses[0], str)
    size = f"{case}, {len(responses)} of {len(responses[0])} {'characters' if of_text else 'ids'}"
    work = (megabytes(responses), "MB") if of_text else (float(len(responses)), "responses")
    for name in ("find_loop", "looped_share", "repetition_rate"):
        ways: dict[str, Callable[[], Any]] = {}
        for which, module in (("before", before), ("now", metrics)):
            find = getattr(module, name)
            whole = name == "repetition_rate"
            ways[f"{name} {which}"] = partial(find, responses) if whole else partial(each, find, responses)
        rows += interleaved(f"{name}, before and now", ways, rounds=rounds, size=size, dtype="", work=work)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("before", type=Path, help="checkout of the other commit")
    parser.add_argument("--corpus", type=Path, help="folder of <language>.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    before, rng, rows = metrics_of(args.before.resolve()), random.Random(0), []
    for language in ALPHABETS:
        texts = [made_up(rng, language) for _ in range(RESPONSES)]
        rows += compare(f"made up, {language}", texts, before, args.rounds)
    looping = [made_up(rng, "en", looping=number % 2 == 0) for number in range(RESPONSES)]
    rows += compare("made up, en, every second one loops", looping, before, args.rounds)
    ids = [rng.choices(range(50_000), k=TOKENS) for _ in range(RESPONSES)]
    rows += compare("made up", ids, before, args.rounds)
    for path in sorted(args.corpus.glob("*.jsonl.gz")) if args.corpus else []:
        texts = responses_of(load_texts(path), rng)
        rows += compare(f"real, {path.name.split('.')[0]}", texts, before, args.rounds)
    print(table(rows))
    print(_rows.write("detectors_before", rows))


if __name__ == "__main__":
    main()
