"""What it costs to collect which features fire on each text: time beside language discovery, memory, and disk.

    python benchmarks/firing.py [--quick]

Time: one pass over 28 layers on one thread of the CPU, on the model, SAEs and texts of discovery_speed.py, beside the
pass in which language discovery reads the same texts. Memory and disk: short texts, one layer, k = 50, in a process of
its own for each number of texts, with a cache. Linux only: it reads `/proc/self`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import _rows
import torch
from _models import qwen3, tokenizer
from _rows import Row
from _timing import interleaved, table
from discovery_scale import memory, peaks
from discovery_speed import ACTIVE, BATCH, BLOCKS, FOLD, LANGUAGES, LENGTH, VOCABULARY, D, make_saes, make_texts

from sae_posttrain import SparseAutoencoder, collect_firing
from sae_posttrain.discovery.firing_cache import At
from sae_posttrain.discovery.statistics import collect_statistics
from sae_posttrain.discovery.thresholds import TokenSample
from sae_posttrain.sae import TopK

FEW = 4  # texts of each language
NARROW, DICTIONARY, TOKENS = 64, 4096, 24  # of the case with many texts
COUNTS = (12_500, 100_000)


def timed(rounds: int) -> list[Any]:
    """Both passes over the same texts."""
    shape = {"num_hidden_layers": BLOCKS, "hidden_size": D, "intermediate_size": 3 * D, "vocab_size": VOCABULARY}
    model, words = qwen3("4M", **shape).eval(), tokenizer(VOCABULARY)
    saes, texts = make_saes(BLOCKS, FOLD * D), make_texts(FEW)
    flat = [text for members in texts.values() for text in members]
    reading: dict[str, Any] = {"batch_size": BATCH, "max_length": LENGTH, "progress": False}

    def language_pass() -> None:
        sample = TokenSample.fitting(saes, len(texts))
        collect_statistics(model, words, saes, texts, **reading, sample=sample)

    def firing_pass(at: At) -> None:
        collect_firing(model, words, saes, flat, layers=list(saes), **reading, at=at)

    return interleaved(
        "firing",
        {
            "language discovery's pass": language_pass,
            "firing, any token": partial(firing_pass, "any"),
            "firing, last token": partial(firing_pass, "last"),
        },
        rounds=rounds,
        size=f"{BLOCKS} of {BLOCKS} layers, {D} wide, {FOLD * D} features, {FEW * len(LANGUAGES) * LENGTH} tokens",
        memory=True,
        work=(FEW * len(LANGUAGES) * LENGTH, "tokens"),
    )


def short_texts(count: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(4)
    for _ in range(count):
        numbers = torch.randint(1, VOCABULARY, (TOKENS,), generator=generator)
        yield " ".join(f"w{number}" for number in numbers.tolist())


def run_count(count: int, folder: str) -> dict[str, float]:
    """Growth of memory over that of the process with its model and SAE, and the size of the folder at the end."""
    torch.set_num_threads(1)
    shape = {"num_hidden_layers": 2, "vocab_size": VOCABULARY}
    model, words = qwen3("0.4M", **shape).eval(), tokenizer(VOCABULARY)
    encoder_KD = torch.randn(DICTIONARY, NARROW, generator=torch.Generator().manual_seed(2)) / NARROW**0.5
    sae = SparseAutoencoder(encoder_KD, torch.zeros(DICTIONARY), encoder_KD, torch.zeros(NARROW), TopK(ACTIVE), 1)
    collect_firing(model, words, {1: sae}, short_texts(256), layers=[1], batch_size=64, progress=False)
    before = memory()
    with peaks() as peak:
        found = collect_firing(
            *(model, words, {1: sae}, short_texts(count)), layers=[1], cache=folder, batch_size=64, progress=False
        )[1]
        fired = int(found.counts().sum())
    return {
        "peak of own memory": (peak["RssAnon"] - before["RssAnon"]) / 1e6,
        "files at the end": sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6,
        "features that fire on a text": fired / count,
    }


def many(counts: tuple[int, ...]) -> Iterator[Row]:
    units = {"features that fire on a text": "features"}
    for count in counts:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            command = [sys.executable, __file__, "--count", str(count), folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for measure, value in json.loads(done.stdout.splitlines()[-1]).items():
            case = f"{count} texts of {TOKENS} tokens, 1 layer, k={ACTIVE}, {DICTIONARY} features"
            yield Row(case, measure, round(value, 1), units.get(measure, "MB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and texts; writes no file")
    parser.add_argument("--count", nargs=2, metavar=("TEXTS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        print(json.dumps(run_count(int(args.count[0]), args.count[1])))
        return
    torch.set_num_threads(1)
    rows = list(many((500, 2000) if args.quick else COUNTS))
    for row in rows:
        print(f"{row.case:60}{row.measure:32}{row.value:10} {row.unit}", flush=True)
    timings = timed(3 if args.quick else 5)
    if not args.quick:
        print(_rows.write("firing_size", rows))
        print(_rows.write("firing_speed", timings))
    print(table(timings))


if __name__ == "__main__":
    main()
