"""Jobs in two processes: on one thread each, in order, with their errors, and gone when the parent is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sae_posttrain.lab.shared.jobs import at_once, one_thread, processes

# The parent dies without a word to its workers, of which one is at work and one waits.
ORPHANS = """
import os, sys, time
from sae_posttrain.lab.shared.jobs import processes
with processes(2) as jobs:
    print(*(jobs(os.getpid).result() for _ in range(2)), flush=True)
    jobs(time.sleep, 6000)
    os._exit(0)
"""


def test_jobs_run_elsewhere_on_one_thread_and_raise_here() -> None:
    before = torch.get_num_threads()
    with processes(2) as jobs:
        assert torch.get_num_threads() == 1
        where, threads, wrong = jobs(os.getpid), jobs(torch.get_num_threads), jobs(int, "no number")
        assert where.result() != os.getpid()
        assert threads.result() == 1
        with pytest.raises(ValueError, match="no number"):
            wrong.result()
    assert torch.get_num_threads() == before


def test_with_one_process_a_job_runs_here() -> None:
    with processes(1) as jobs:
        assert jobs is at_once
        assert jobs(os.getpid).result() == os.getpid()
    with pytest.raises(ValueError, match="no number"):
        at_once(int, "no number")


def test_workers_end_with_their_parent() -> None:
    # They hold the pipe that is read here: `run` returns when all of them have ended, or raises at the timeout.
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0
    assert done.stdout.split()


def test_threads_are_as_before_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="on purpose"), one_thread():
        raise RuntimeError("on purpose")
    assert torch.get_num_threads() == before
