"""Two processes on CPU under `accelerate launch`, with the files of configs/accelerate that clusters use."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__)
CONFIGS = HERE.parents[1] / "configs" / "accelerate"
TIMEOUT = 280  # seconds; below the tests' own


def launch(config: str, module: str, *arguments: str) -> tuple[int, str]:
    """Run `python -m module` in two processes, as a file of configs/accelerate says, but on CPU and in fp32.

    Returns the exit code and what was written to stderr.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(CONFIGS / f"{config}.yaml"), "--main_process_port", "0"]
    command += ["--num_processes", "2", "--mixed_precision", "no", "-m", HERE.stem, module, *arguments]
    paths = [str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    if config == "ddp":
        environment["ACCELERATE_USE_CPU"] = "true"
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        _, errors = started.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        started.terminate()  # and with it its ranks; killed, it would leave them waiting for each other
        _, errors = started.communicate()
    return started.returncode, errors


def count_the_cpu_as_an_accelerator() -> None:
    """Let accelerate do on CPU what it keeps for accelerators: it looks at what the configuration asks for only where
    `PartialState._prepare_backend` answers MULTI_GPU or the like. All that follows from the answer is its own."""
    from accelerate.state import DistributedType, PartialState

    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo serves; this would be compiled into a user's cache


if __name__ == "__main__":
    if "ACCELERATE_USE_CPU" not in os.environ:
        count_the_cpu_as_an_accelerator()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
