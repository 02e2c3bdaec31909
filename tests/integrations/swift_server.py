"""Runs `swift/cli/sft.py` or `rlhf.py`, the files that `swift sft` and `swift rlhf` start, once for each line of stdin.

Importing ms-swift takes ten times as long as a step of a tiny model. Here it is imported once, and each run is a fork
of this process. A line is JSON: the command, its arguments, the environment's changes, the folder, and the file for
what the run writes. The answer is its exit code.
"""

import json
import os
import runpy
import sys
from importlib.util import find_spec
from typing import Any

import swift.pipelines

import sae_posttrain.training.sasft  # noqa: F401  the plugin imports it


def run(job: dict[str, Any]) -> int:
    """Fork, and run the command in the child; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        output = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        found = find_spec(f"swift.cli.{job['command']}")
        assert found is not None
        assert found.origin is not None
        sys.argv = [found.origin, *job["arguments"]]
        runpy.run_path(found.origin, run_name="__main__")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    assert swift.pipelines.sft_main is not None
    for name in [one for one in os.environ if one.startswith("SASFT_")]:
        del os.environ[name]
    print("ready", flush=True)
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
