"""Write output files of several commands. Paths are checked before the work starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def check_file(output: str | Path) -> Path:
    """Check that a file can be written to a path, and create its folder.

    Raises: ValueError: the path is a folder. OSError: nothing can be written there.
    """
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"--output {output} is a folder; name the file to write.")
    if not is_device(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file for writing. The file at `path` is replaced only after everything was written.

    A lone surrogate, which UTF-8 cannot encode, is written as a JSON escape.
    """
    if is_device(path):
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    path = path.resolve()  # so that a symbolic link is not replaced by a file
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Whether the path is a device such as /dev/stdout, which must not be replaced."""
    return path.exists() and not path.is_file()
