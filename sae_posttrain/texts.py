"""Read a user's rows and texts: .jsonl, .json, .csv, .tsv, .txt and .parquet files, `datasets` folders and hub ids.

All of these except .parquet may be compressed (.gz). No code in a file is executed.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
_SUFFIXES = (*_KINDS, *(f"{kind}.gz" for kind in _KINDS), ".parquet")
_UNREADABLE = (UnicodeDecodeError, EOFError, gzip.BadGzipFile)
_DELIMITERS = ",;\t"

Row = dict[str, Any]


def load_rows(source: str | Path, *, split: str = "train", limit: int | None = None) -> list[Row]:
    """Load the rows of a file, of a local `datasets` folder or of a hub dataset.

    Args:
        source: a path or a hub id. A line of .txt is the row {'text': line}. All values of .csv and .tsv are texts. A
            .json file contains a list of rows, or a server's response to one request.
        split: split of a dataset.
        limit: number of rows to read. Default: all.

    Raises: FileNotFoundError: there is no such file or dataset. ValueError: its content is broken or empty.
    """
    _check_limit(limit)
    rows = list(islice(_iterate_rows(source, split, streaming=limit is not None), limit))
    if not rows:
        raise ValueError(f"{source} holds no rows.")
    return rows


def load_texts(
    source: str | Path, *, column: str = "text", limit: int | None = None, split: str = "train"
) -> list[str]:
    """Load the non-blank texts of one column, in order. Reading stops after `limit` texts.

    Raises: as `load_rows`; also ValueError: the column is missing or has no text.
    """
    _check_limit(limit)
    rows = _iterate_rows(source, split, streaming=limit is not None)
    return list(islice(_texts_of(rows, source, column), limit))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}.")


def stream_rows(source: str | Path, *, split: str = "train") -> Iterator[Row]:
    """Yield rows without loading all of them. Raises: as `load_rows`, during the iteration."""
    return _iterate_rows(source, split, streaming=True)


def stream_texts(source: str | Path, *, column: str = "text", split: str = "train") -> Iterator[str]:
    """Yield the texts of one column without loading all of them. Raises: as `load_texts`, during the iteration."""
    return _texts_of(_iterate_rows(source, split, streaming=True), source, column)


def _texts_of(rows: Iterator[Row], source: str | Path, column: str) -> Iterator[str]:
    found = False
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(
                f"{source}, row {number}: no column {column!r}; the columns present are {', '.join(map(repr, row))}. "
                f"Name the column with the text."
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{source}, row {number}: column {column!r} holds a {type(text).__name__}, not a text.")
        if text and text.strip():
            found = True
            yield text
    if not found:
        raise ValueError(f"{source} holds no non-empty text in column {column!r}.")


def _iterate_rows(source: str | Path, split: str, streaming: bool) -> Iterator[Row]:
    path = Path(source)
    if path.is_dir() or not (path.is_file() or _looks_like_path(source)):
        yield from _dataset_rows(str(source), split, streaming)
        return
    if not path.is_file():
        raise FileNotFoundError(f"no file {source}; expected {', '.join(_SUFFIXES)}, a folder or a hub dataset id.")
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"cannot read {source}: expected a name that ends in {', '.join(_SUFFIXES)}.")
    kind = name.removesuffix(".gz").rsplit(".", 1)[1]
    read = {
        **{"jsonl": _jsonl_rows, "json": _json_rows, "txt": _txt_rows},
        **{"csv": _csv_rows, "tsv": _csv_rows, "parquet": _parquet_rows},
    }[kind]
    try:
        yield from read(path)
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {source}: it is cut off, or not UTF-8 text ({error}).") from error


def _looks_like_path(source: str | Path) -> bool:
    """Whether a missing source looks like a file path. A hub id is 'name' or 'owner/name' without a file suffix."""
    text = str(source)
    return (
        isinstance(source, Path)
        or text.lower().endswith((*_SUFFIXES, ".gz"))
        or text.startswith(("/", "./", "../", "~"))
        or text.count("/") > 1
    )


def _open(path: Path, newline: str | None = None) -> Any:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


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
    if isinstance(rows, dict) and isinstance(rows.get("choices"), list):
        rows = [rows]  # a server's response to one request
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}; expected a list of objects (or use .jsonl).")
    for number, row in enumerate(rows, start=1):
        yield _row(row, f"{path}, row {number}")


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows with the column names of the first line. The delimiter is the most frequent candidate in that line."""
    with _open(path, newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max(_DELIMITERS, key=header.count)
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # an answer may be longer than the default limit
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:
                    raise ValueError(f"{where}: more values than the {len(row) - 1} names in the first line.")
                yield row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: broken CSV ({error}).") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"cannot read {path}: it is cut off, or not a Parquet file ({error}).") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"{where}{place}: broken JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of nested brackets
        raise ValueError(f"{where}: this JSON cannot be read ({error}).") from error


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise ValueError(f'{where}: expected a JSON object such as {{"text": "…"}}, got a {type(value).__name__}.')
    return value


def _dataset_rows(source: str, split: str, streaming: bool) -> Iterator[Row]:
    import datasets

    saved = Path(source, "dataset_dict.json").is_file() or Path(source, "state.json").is_file()
    try:
        if saved:
            loaded = datasets.load_from_disk(source)
            if isinstance(loaded, datasets.DatasetDict) and split not in loaded:
                raise ValueError(f"{source} has no split {split!r}; it has {', '.join(loaded)}.")
            dataset = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            dataset = datasets.load_dataset(source, split=split, streaming=streaming)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no file, folder or reachable hub dataset {source!r}: {error}") from error
    yield from dataset
