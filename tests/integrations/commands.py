"""Runs a framework's command line, each time in a new process that has the framework's modules loaded already."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def run(function: str, words: Sequence[str], log: Path, *, preload: Sequence[str], cwd: Path) -> int:
    """Run a command as its script would, and return its exit status.

    Args:
        function: the script's entry point, `module:function`.
        words: the command with its arguments.
        log: file for what it prints.
        preload: modules that every run needs. Loading them takes longer than a run.
        cwd: the folder to run in.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload, function.split(":")[0]])
    process = context.Process(target=_call, args=(function, list(words), str(log), str(cwd)))
    process.start()
    process.join()
    return process.exitcode or 0


def _call(function: str, words: list[str], log: str, cwd: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(cwd)
    gc.freeze()  # the frameworks collect garbage now and then, and going over all that is loaded takes seconds
    # A child of a fork server would start its own children from one too, which loads everything again for each.
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = words
    module, name = function.split(":")
    getattr(importlib.import_module(module), name)()
