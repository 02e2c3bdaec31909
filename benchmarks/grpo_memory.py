"""Peak memory of one GRPO step with LoRA on CPU, by how its rollouts are divided into batches.

    python benchmarks/grpo_memory.py --model FOLDER [--cases 16x1 4x4]

A case is per_device_train_batch_size x gradient_accumulation_steps: all have as many rollouts in a step. Each runs in a
process of its own, with TRL's `GRPOTrainer`, 8 rollouts a prompt, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import _rows

STEP = """
import json, sys, tempfile, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
source, batch, steps, tokens = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(source)
prompt = [{"role": "user", "content": "Write a story about a cat."}]
if tokenizer.chat_template is None:
    prompt = prompt[0]["content"]
with tempfile.TemporaryDirectory() as folder:
    config = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, num_generations=8,
        max_completion_length=tokens, max_steps=1, bf16=True, use_cpu=True, report_to="none", save_strategy="no",
    )
    GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16),
        reward_funcs=lambda completions, **columns: [float(len(str(one)) % 7) for one in completions],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt}] * 8),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, target_modules="all-linear"),
    ).train()
"""


@dataclass(frozen=True)
class Row:
    model: str
    batch_size: int
    accumulation: int
    tokens: int
    peak_megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", nargs="+", default=["16x1", "8x2", "4x4", "2x8"])
    parser.add_argument("--tokens", type=int, default=128, help="longest completion")
    args = parser.parse_args()
    rows = []
    for case in args.cases:
        batch, steps = map(int, case.split("x"))
        rows.append(Row(Path(args.model).name, batch, steps, args.tokens, peak(args.model, batch, steps, args.tokens)))
        print(f"{batch:3} x {steps}: {rows[-1].peak_megabytes:7.0f} MB", flush=True)
        print(f"written: {_rows.write('grpo_memory', rows)}", flush=True)


def peak(model: str, batch: int, steps: int, tokens: int) -> float:
    """MB of a process that trains one step."""
    process = subprocess.Popen(
        [sys.executable, "-c", STEP, json.dumps([model, batch, steps, tokens])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{batch} x {steps} failed with status {status}.")
    return round(usage.ru_maxrss / 1024, 0)


if __name__ == "__main__":
    main()
