"""Run several commands in this process of `accelerate launch`, and print the exit code of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from sae_posttrain.cli import main


def run(commands: list[list[str]]) -> None:
    # A process group is destroyed at the end of a command, and cannot be made again in the same process.
    end, state = Accelerator.end_training, Accelerator(cpu=True)
    Accelerator.end_training = lambda self: None  # type: ignore[method-assign]
    codes = [main(command) for command in commands]
    print(f"process {state.process_index}: {codes}", file=sys.stderr)
    state.wait_for_everyone()
    Accelerator.end_training = end  # type: ignore[method-assign]
    state.end_training()


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
