"""What several commands write: checked before the work starts, so that a mistake in a path costs nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def check_file(output: str | Path) -> Path:
    """A path that a file can be written to; its folder is made.

    Raises: ValueError for a folder; OSError where nothing can be written.
    """
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"--output {output} is a folder; name the file to write.")
    if not _is_device(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file to write; what is at `path` stays as it was unless all of it was written.

    A lone surrogate, which UTF-8 lacks, is written as JSON's own escape.
    """
    if _is_device(path):
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    path = path.resolve()  # a link stays a link
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """Such as /dev/stdout, which must not be replaced."""
    return path.exists() and not path.is_file()
