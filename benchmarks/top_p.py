"""What top-p costs at a step of sampling: transformers' sort of the whole vocabulary beside the largest logits alone.

    python benchmarks/top_p.py [--model FOLDER]

Without a model the logits are made up: normal with a large, a middling or a small spread. With one they are its own,
after each of some words, and whole responses are timed too. Both ways must keep the same tokens in every row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import _rows
import torch
from _timing import Timing, interleaved, table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import TopPLogitsWarper

from sae_posttrain.sampling import SamplingSettings, engine, sample_responses
from sae_posttrain.sampling.nucleus import Nucleus

VOCABULARIES = (49_152, 151_936, 262_144)
BATCHES = (1, 8, 32)
SPREADS = {"peaked": 5.0, "less peaked": 3.5, "flat": 2.0}
TEXT = "The weather in the mountains changes quickly, so it is wise to take a coat and enough to drink with you."


def made_up(rows: int, vocabulary: int, spread: float) -> Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


def compare(case: str, logits_BV: Tensor, rounds: int, top_p: float) -> tuple[list[Timing], list[_rows.Row]]:
    stock, ours, ids = TopPLogitsWarper(top_p), Nucleus(1.0, top_p), torch.zeros(1)
    expected, found = stock(ids, logits_BV.clone()), ours(ids, logits_BV.clone())
    if not torch.equal(expected, found):
        raise RuntimeError(f"{case}: the two ways keep other tokens.")
    sure_B = ours._smallest_kept(logits_BV)[1]
    size = f"{case}, {len(logits_BV)} x {logits_BV.shape[1]}, top_p {top_p}"
    ways: dict[str, Callable[[], Any]] = {
        "transformers' sort": lambda: stock(ids, logits_BV),
        "largest logits": lambda: ours(ids, logits_BV),
        "softmax and a draw alone": lambda: torch.multinomial(logits_BV.softmax(-1), 1),
    }
    timings = interleaved("top_p", ways, rounds=rounds, size=size)
    kept = (found > -torch.inf).sum(dim=-1).float()
    return timings, [
        _rows.Row(size, "rows that went through the sort", float((~sure_B).float().mean()), "share"),
        _rows.Row(size, "tokens kept, mean", float(kept.mean()), "tokens"),
    ]


def whole_responses(model: Any, tokenizer: Any, rounds: int) -> list[Timing]:
    prompts = TEXT.split()[:8]

    def sample(top_p: float) -> None:
        sampling = SamplingSettings(top_p=top_p, max_new_tokens=24)
        sample_responses(model, tokenizer, prompts, sampling, samples=1, batch_size=8, progress=False)

    def sorted_too() -> None:
        with mock.patch.object(engine, "Nucleus", lambda temperature, top_p: TopPLogitsWarper(top_p)):
            sample(top_p=0.8)

    ways = {
        "top_p 1": lambda: sample(top_p=1.0),
        "top_p 0.8, largest logits": lambda: sample(top_p=0.8),
        "top_p 0.8, transformers' sort": sorted_too,
    }
    return interleaved("whole responses", ways, rounds=rounds, size="8 responses of 24 tokens", work=(8 * 24, "tokens"))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="folder or hub id")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    timings: list[Timing] = []
    checked: list[_rows.Row] = []
    cases = [
        (name, made_up(batch, vocabulary, spread))
        for vocabulary in VOCABULARIES
        for batch in BATCHES
        for name, spread in SPREADS.items()
        if batch == 8 or (vocabulary, name) == (VOCABULARIES[-1], "peaked")
    ]
    if args.model:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
        logits = model(**tokenizer(TEXT, return_tensors="pt")).logits[0].float()
        cases.append(("of the model", logits[-16:].contiguous()))
    for name, logits_BV in cases:
        for top_p in (0.8, 0.95):
            found, rows = compare(name, logits_BV, args.rounds, top_p)
            timings += found
            checked += rows
    if args.model:
        timings += whole_responses(model.eval(), tokenizer, args.rounds)
    print(table(timings))
    for row in checked:
        print(f"{row.case:44}{row.measure:36}{row.value:10.4f} {row.unit}")
    print(_rows.write("top_p", timings), _rows.write("top_p_kept", checked))


if __name__ == "__main__":
    main()
