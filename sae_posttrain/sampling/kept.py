"""Responses kept in a file as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from .requests import Prompt, TokenIds
from .response import Response

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial.jsonl"
Key = tuple[int, int, int]
"""Number of the setting, place of the prompt, number of the sample; each from 0."""


class KeptResponses:
    """The file beside a command's output that holds the responses sampled so far.

    Its first line describes the run: its prompts, model and settings. Every other line is a response. A file without
    responses, such as that of a run whose options were wrong, is begun anew. Processes other than the first have files
    of their own, so that no two write to one file.

    Args:
        output: the file that the responses will be written to; the kept ones are in `OUTPUT.partial.jsonl`, where
            OUTPUT is its name without the ending.
        run: what describes the run; see `describe_run`.
        process: number of this process.

    Raises:
        ValueError: when it is entered: the file is of another run, or another process is writing to it.

    Example:
        >>> run = describe_run(["Hi."], {"model": "tiny"}, [{"temperature": 0.0}], samples=1)
        >>> with KeptResponses("answers.jsonl", run) as kept:
        ...     kept.add({(0, 0, 0): Response("Hello.", "stop", 3)})
        ...     len(kept.found)
        1
        >>> kept.remove()
    """

    def __init__(self, output: str | Path, run: Mapping[str, Any], process: int = 0) -> None:
        self.output, self.run, self.process = Path(output), dict(run), process
        self.path = self.output.with_suffix(f".{process}{SUFFIX}" if process else SUFFIX)
        self.found: dict[Key, Response] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with self._told():
            self._file = self.path.open("ab", buffering=0)  # nothing waits in a buffer when the process is killed
        try:
            if not self.path.is_file():  # a device or a pipe, which may have no end
                raise ValueError(f"{self.path} is no file; move it away, or give another output.")
            self._lock()  # before anything is cut: another process may be writing
            for path in self._paths():
                for key, response in _read(path, self.run):
                    self.found.setdefault(key, response)
            with self._told():
                drop_half_a_line(self.path)
                if not _has_responses(self.path):  # perhaps of a run that failed at its first response
                    self._file.truncate(0)
                    self._write([{"run": self.run, "hash": _hash(self.run)}])
        except BaseException:  # `__exit__` is not called
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, responses: Mapping[Key, Response]) -> None:
        """Write responses to the file. Raises: OSError: it cannot be written; those before are kept."""
        with self._told():
            self._write([{**_placed(key), **_as_json(response)} for key, response in responses.items()])
        self.found.update(responses)

    def remove(self) -> None:
        """Delete the files, when the output has been written. Only the first process does: it writes the output."""
        for path in self._paths() if self.process == 0 else ():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The files of all processes, perhaps of a run with more of them."""
        stem = self.output.with_suffix("").name
        others = self.output.parent.glob(f"{_escaped(stem)}.*{SUFFIX}")
        numbered = [path for path in others if path.name[len(stem) + 1 : -len(SUFFIX)].isdecimal()]
        return [path for path in (self.output.with_suffix(SUFFIX), *sorted(numbered)) if path.exists()]

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        assert self._file is not None
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        raw = memoryview(text.encode("utf-8", "backslashreplace"))  # a lone surrogate as JSON's own escape
        while raw:
            raw = raw[self._file.write(raw) or 0 :]

    def _lock(self) -> None:
        assert self._file is not None
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another process is writing to {self.path}; wait for it, or give another output."
            ) from None
        except OSError:  # a file system without locks
            return

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            there = f" The {len(self.found)} responses before are kept: make room, and run the same command again."
            raise OSError(
                f"{self.path} cannot be written: {error.strerror or error}.{there if self.found else ''}"
            ) from error


def describe_run(
    prompts: Sequence[Prompt | TokenIds], engine: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], samples: int
) -> dict[str, Any]:
    """What a run's responses depend on, by name, so that a message can say what differs.

    Args:
        prompts: all of them, in order.
        engine: the engine's `identity`.
        settings: the fields of each `SamplingSettings`.
        samples: responses per prompt.
    """
    described = {
        **engine,
        "samples": samples,
        "settings": [dict(one) for one in settings],
        "prompts": len(prompts),
        "prompts' hash": _hash(list(prompts)),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def _hash(value: Any) -> str:
    raw = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(raw.encode("utf-8", "backslashreplace")).hexdigest()


def _read(path: Path, run: Mapping[str, Any]) -> Iterator[tuple[Key, Response]]:
    """The responses of a file, up to a line that was not written to its end. A file without any is of no other run."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number + 1}, is no kept response ({error}); delete the line."
                ) from error
            if number == 0:
                first = row
                _check_is_kept(path, first)
                continue
            if number == 1:
                _check_same_run(path, first, run)
            problem = _problem(row)
            if problem:
                raise ValueError(f"{path}, line {number + 1}, is no kept response ({problem}); delete the line.")
            yield (row["setting"], row["prompt"], row["sample"]), _from_json(row)


def _problem(row: Any) -> str:
    """What is wrong with a line that was edited by hand; empty if nothing is."""
    if not isinstance(row, dict):
        return "it is no object"
    whole = (*_placed((0, 0, 0)), *(["tokens"] if row.get("tokens") is not None else []))
    for name in whole:
        if type(row.get(name)) is not int or row[name] < 0:
            return f"{name!r} is no whole number"
    if not isinstance(row.get("response"), str):
        return "'response' is no text"
    if row.get("finish_reason") not in ("stop", "length", None):
        return '\'finish_reason\' is none of "stop", "length" and null'
    ids = row.get("ids")
    return "" if isinstance(ids, list) and all(type(one) is int for one in ids) else "'ids' are no token ids"


def _has_responses(path: Path) -> bool:
    """Whether a file has more than the line that describes its run."""
    with path.open("rb") as file:
        return sum(1 for _ in islice(file, 2)) == 2


def _check_is_kept(path: Path, first: Any) -> None:
    if not isinstance(first, dict) or not isinstance(first.get("run"), dict):
        raise ValueError(f"{path} is no file of kept responses; move it away, or give another output.")


def _check_same_run(path: Path, first: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    there = first["run"]
    if _hash(there) == _hash(run):
        return
    names = [name for name in {**there, **run} if there.get(name) != run.get(name)]
    shown = "; ".join(f"{name} was {_short(there.get(name))}, now {_short(run.get(name))}" for name in names)
    raise ValueError(
        f"{path} holds the responses of another run: {shown}. Give the settings of that run to go on with it, delete "
        "the file to begin anew, or give another output."
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def drop_half_a_line(path: Path) -> None:
    """Cut what is behind the last line of a file that was written to its end; a killed process leaves half a line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
        file.truncate(end)


def _placed(key: Key) -> dict[str, int]:
    return dict(zip(("setting", "prompt", "sample"), key, strict=True))


def _as_json(response: Response) -> dict[str, Any]:
    return {**response.to_row(), "ids": list(response.ids)}


def _from_json(row: Mapping[str, Any]) -> Response:
    return Response(row["response"], row.get("finish_reason"), row.get("tokens"), tuple(row["ids"]), row.get("engine"))


def _escaped(name: str) -> str:
    """A name in which `glob` finds no patterns."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
