"""How long finding switches takes beside another commit, in the same rounds.

    git worktree add ../before COMMIT
    python benchmarks/switches_before.py ../before [LANGUAGE=FOLDER …]

Responses are made up as in `detectors.py`: none, one in a hundred or all of them hold a switch. Folders hold real
documents, as for `switch_documents.py`; there code and markup have to be told from prose wherever a switch may be.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import _rows
from _timing import Timing, interleaved, table
from detectors import ALPHABETS, each, made_up, megabytes
from detectors_before import metrics_of
from switch_documents import LATIN, read

from sae_posttrain import metrics

RESPONSES, PARAGRAPHS = 100, 2_000


def compare(
    name: str, find: Callable[[ModuleType], Any], size: str, work: tuple[float, str], **options: Any
) -> list[Timing]:
    ways = {f"{name} {which}": find(module) for which, module in (("before", options["before"]), ("now", metrics))}
    return interleaved(f"{name}, before and now", ways, rounds=options["rounds"], size=size, dtype="", work=work)


def spans(texts: Sequence[str], code: str, module: ModuleType) -> Callable[[], None]:
    return partial(each, lambda text: module.unexpected_spans(text, code), texts)


def phrases(texts: Sequence[str], code: str, module: ModuleType) -> Callable[[], None]:
    finder = module.PhraseFinder()
    return partial(each, lambda text: finder.find(text, code), texts)


def rate(texts: Sequence[str], codes: Sequence[str], module: ModuleType) -> Callable[[], Any]:
    return partial(module.code_switching_rate, texts, codes, resamples=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the other commit")
    parser.add_argument("documents", nargs="*", metavar="LANGUAGE=FOLDER")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    options = {"before": metrics_of(args.before.resolve()), "rounds": args.rounds}
    rng, rows = random.Random(0), []
    for share, every in (("no switch", 0), ("one in a hundred with a switch", 100), ("all with a switch", 1)):
        for code in ALPHABETS:
            texts = [made_up(rng, code, strange=bool(every) and number % every == 0) for number in range(RESPONSES)]
            work = (megabytes(texts), "MB")
            size = f"{code}, {RESPONSES} made up, {share}"
            rows += compare("unexpected_spans", partial(spans, texts, code), size, work, **options)
    codes = [list(ALPHABETS)[number % len(ALPHABETS)] for number in range(10 * RESPONSES)]
    texts = [made_up(rng, code, strange=number % 100 == 0) for number, code in enumerate(codes)]
    size = f"{len(texts)} made up, one in a hundred with a switch"
    rows += compare("code_switching_rate", partial(rate, texts, codes), size, (megabytes(texts), "MB"), **options)
    for code, source in (entry.split("=", 1) for entry in args.documents):
        texts = [text for text in read(source) if text.strip()][:PARAGRAPHS]
        size, work = f"{code}, {len(texts)} paragraphs of documents", (megabytes(texts), "MB")
        rows += compare("unexpected_spans", partial(spans, texts, code), size, work, **options)
        if code in LATIN:
            rows += compare("PhraseFinder.find", partial(phrases, texts, code), size, work, **options)
    print(table(rows))
    print(_rows.write("switches_before", rows))


if __name__ == "__main__":
    main()
