"""Read a user's rows and texts: .jsonl, .json and .txt files (also .gz), and `datasets` folders or hub ids."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz")
_UNREADABLE = (UnicodeDecodeError, EOFError, gzip.BadGzipFile)

Row = dict[str, Any]


def load_rows(source: str | Path, *, split: str = "train") -> list[Row]:
    """All rows of a file, of a local `datasets` folder or of a hub dataset; a line of .txt is the row {'text': line}.

    Raises: FileNotFoundError when there is no such file or dataset; ValueError when its content is broken or empty.
    """
    rows = list(_iterate_rows(source, split, streaming=False))
    if not rows:
        raise ValueError(f"{source} holds no rows")
    return rows


def load_texts(
    source: str | Path, *, column: str = "text", limit: int | None = None, split: str = "train"
) -> list[str]:
    """The texts of one column, in order, without the blank ones; `limit` stops reading after so many.

    Raises: as `load_rows`; ValueError when the column is missing or holds no text.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    rows = _iterate_rows(source, split, streaming=limit is not None)
    texts = list(islice(_texts_of(rows, source, column), limit))
    if not texts:
        raise ValueError(f"{source} holds no non-empty text in column {column!r}")
    return texts


def stream_texts(source: str | Path, *, column: str = "text", split: str = "train") -> Iterator[str]:
    """The texts of one column, one after the other, without holding them all. Raises: as `load_texts`, while read."""
    return _texts_of(_iterate_rows(source, split, streaming=True), source, column)


def _texts_of(rows: Iterator[Row], source: str | Path, column: str) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(
                f"{source}, row {number}: no column {column!r}; the columns present are {', '.join(map(repr, row))}. "
                f"Name the column that holds the text."
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{source}, row {number}: column {column!r} holds a {type(text).__name__}, not a text")
        if text and text.strip():
            yield text


def _iterate_rows(source: str | Path, split: str, streaming: bool) -> Iterator[Row]:
    path = Path(source)
    if path.is_dir() or not (path.is_file() or _looks_like_path(source)):
        yield from _dataset_rows(str(source), split, streaming)
        return
    if not path.is_file():
        raise FileNotFoundError(f"no file {source}; expected {', '.join(_SUFFIXES)}, a folder or a hub dataset id")
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"cannot read {source}: expected a name that ends in {', '.join(_SUFFIXES)}")
    kind = name.removesuffix(".gz").rsplit(".", 1)[1]
    read = {"jsonl": _jsonl_rows, "json": _json_rows, "txt": _txt_rows}[kind]
    try:
        yield from read(path)
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {source}: it is cut off, or not UTF-8 text ({error})") from error


def _looks_like_path(source: str | Path) -> bool:
    """Whether a missing source was meant as a file; a hub id is 'name' or 'owner/name' without such an ending."""
    text = str(source)
    return (
        isinstance(source, Path)
        or text.lower().endswith((*_SUFFIXES, ".gz", ".csv", ".parquet"))
        or text.startswith(("/", "./", "../", "~"))
        or text.count("/") > 1
    )


def _open(path: Path) -> Any:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig")


def _txt_rows(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for line in lines:
            if line.strip():
                yield {"text": line.rstrip("\n")}


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json_rows(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        rows = _parse(file.read(), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}; expected a list of objects (or use .jsonl)")
    for number, row in enumerate(rows, start=1):
        yield _row(row, f"{path}, row {number}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"{where}{place}: broken JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets in brackets
        raise ValueError(f"{where}: JSON that cannot be read ({error})") from error


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise ValueError(f'{where}: expected a JSON object such as {{"text": "…"}}, got a {type(value).__name__}')
    return value


def _dataset_rows(source: str, split: str, streaming: bool) -> Iterator[Row]:
    import datasets

    saved = Path(source, "dataset_dict.json").is_file() or Path(source, "state.json").is_file()
    try:
        if saved:
            loaded = datasets.load_from_disk(source)
            if isinstance(loaded, datasets.DatasetDict) and split not in loaded:
                raise ValueError(f"{source} has no split {split!r}; it has {', '.join(loaded)}")
            dataset = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            dataset = datasets.load_dataset(source, split=split, streaming=streaming)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no file, folder or reachable hub dataset {source!r}: {error}") from error
    yield from dataset
