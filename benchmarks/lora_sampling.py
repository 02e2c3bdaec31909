"""Memory and time of `measure` on a LoRA folder, against the same weights merged.

    python benchmarks/lora_sampling.py --model FOLDER [--runs 3] [--before]

From the model, a LoRA adapter with random weights is made and merged. `measure repetition` then samples from both, each
in a process of its own, in turns. With --before, the adapter is also sampled from without `contiguous_head`, which
takes 16 copies of the head: 6 GB for a vocabulary of 262,144 tokens.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import _rows
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

COMMAND = """
import sys
from contextlib import nullcontext
if sys.argv.pop(1) == "before":
    import sae_posttrain.sampling.engine as engine
    engine.contiguous_head = lambda model: nullcontext()
from sae_posttrain.cli import main
sys.exit(main(sys.argv[1:]))
"""
MEGABYTE = 2**20
PROMPTS = ["Write a story about a cat and a house.", "List ten animals that live in the sea.", "Why is the sky blue?"]


@dataclass(frozen=True)
class Row:
    """The median of some runs of one way, and its ratio to that of merged weights."""

    model: str
    way: str
    measure: str
    value: float
    unit: str
    against_merged: float
    runs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, nargs="+", help="folders")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--before", action="store_true", help="also without contiguous_head")
    args = parser.parse_args()
    rows: list[Row] = []
    for model in args.model:
        rows += measure(model, args)
        print(f"written: {_rows.write('lora_sampling', rows)}", flush=True)


def measure(model: str, args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        adapter, merged = make(model, Path(scratch))
        prompts = Path(scratch, "prompts.txt")
        prompts.write_text("".join(f"{PROMPTS[i % len(PROMPTS)]}\n" for i in range(args.batch_size)), encoding="utf-8")
        ways = {"merged": (merged, "now"), "adapter": (adapter, "now")}
        if args.before:
            ways["adapter, before"] = (adapter, "before")
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(args.runs):
            for way, (folder, mode) in ways.items():
                options = ["--max-new-tokens", args.max_new_tokens, "--batch-size", args.batch_size, "--samples", 1]
                command = ["measure", "repetition", "--model", folder, "--prompts", prompts, *options]
                found[way].append(run([mode, *map(str, command)]))
    rows = []
    for place, (name, unit) in enumerate((("peak memory", "MB"), ("CPU time", "s"))):
        base = median(one[place] for one in found["merged"])
        for way, measured in found.items():
            value = median(one[place] for one in measured)
            rows.append(Row(Path(model).name, way, name, round(value, 2), unit, round(value / base, 3), args.runs))
            print(
                f"{rows[-1].model}  {way:16} {name:12} {value:9.1f} {unit:3} {value / base:6.2f} times merged",
                flush=True,
            )
    return rows


def make(source: str, folder: Path) -> tuple[Path, Path]:
    """A LoRA adapter for the model, and the same weights merged."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.01)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("adapter", "merged"):
        tokenizer.save_pretrained(folder / name)
    return folder / "adapter", folder / "merged"


def run(arguments: list[str]) -> tuple[float, float]:
    """Peak memory in MB and CPU time in seconds of a process of its own."""
    process = os.fork()
    if process == 0:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.execv(sys.executable, [sys.executable, "-c", COMMAND, *arguments])
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"failed: {' '.join(arguments)}")
    return usage.ru_maxrss * 1024 / MEGABYTE, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
