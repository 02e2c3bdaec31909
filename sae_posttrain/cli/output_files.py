"""Write output files of several commands. Paths are checked before the work starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def check_file(output: str | Path, *, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Check that a file can be written to a path, and create its folder.

    Args:
        output: the path.
        inputs: files that the command reads, which it must not replace; None is left out.

    Raises: ValueError: the path is a folder, or one of the inputs. OSError: nothing can be written there.
    """
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"--output {output} is a folder; name the file to write.")
    if not is_device(path):
        if any(Path(one).resolve() == path.resolve() for one in inputs if one is not None):
            raise ValueError(f"{output} is an input of this command; name another file to write.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"{output} cannot be written: part of its path is a file, not a folder.") from error
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


def check_json(output: str | Path, *, inputs: Iterable[str | Path | None] = ()) -> Path:
    """`check_file` for a file that `sae-posttrain report` finds by its ending. Raises: ValueError: another ending."""
    if Path(output).suffix != ".json":
        raise ValueError(f"{output}: name the file to write, ending in .json.")
    return check_file(output, inputs=inputs)


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


def remove_older(path: Path, why: str, out: IO[str] | None = None) -> None:
    """Remove the file that an earlier run wrote, and say so, when this run has nothing to write there.

    Otherwise the older file would be taken for the result of this run.
    """
    if path.is_file():
        path.unlink()
        print(f"Removed {path}, which an earlier run wrote: {why}.", file=out)


def is_device(path: Path) -> bool:
    """Whether the path is a device such as /dev/stdout, which must not be replaced."""
    return path.exists() and not path.is_file()
