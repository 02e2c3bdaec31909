"""Reading users' files: every kind, and every way in which they come broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from sae_posttrain.texts import load_rows, load_texts

TEXTS = ["Hello there", "你好，世界", "Привет,\u2028мир"]


def write(path: Path, content: str) -> Path:
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def as_jsonl(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text, "id": i}, ensure_ascii=False) + "\n" for i, text in enumerate(texts))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\n".join(TEXTS)),
        ("a.txt.gz", "\n\n".join(TEXTS) + "\n"),
        ("a.jsonl", "\ufeff" + as_jsonl(TEXTS)),
        ("a.jsonl.gz", as_jsonl(TEXTS)),
        ("a.JSON", json.dumps([{"text": text} for text in TEXTS])),
        ("a.json.gz", json.dumps(TEXTS)),
        ("a.csv", '\ufefftext,id\n"Hello there",1\n你好，世界,2\n"Привет,\u2028мир",3\n'),
        ("a.csv.gz", 'id;text\n1;Hello there\n2;你好，世界\n3;"Привет,\u2028мир"\n'),
        ("a.tsv", "text\tid\nHello there\t1\n你好，世界\t2\nПривет,\u2028мир\t3\n"),
    ],
)
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, name: Any, content: Any) -> None:
    path = write(tmp_path / name, content)
    assert load_texts(path) == TEXTS
    assert load_texts(str(path), limit=2) == TEXTS[:2]
    assert [row["text"] for row in load_rows(path)] == TEXTS


def test_tables_that_pandas_and_datasets_write(tmp_path: Path) -> None:
    """A cell may hold line breaks and quotes; a table may hold lists of messages."""
    cell = 'a "quoted"\nline, and more'
    rows = [{"text": cell, "prompt": [{"role": "user", "content": "Hi"}]}, {"text": "b" * 200_000, "prompt": None}]
    frame = pandas.DataFrame(rows)
    frame.to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "b.parquet")
    frame[["text"]].to_csv(tmp_path / "a.csv", index=False)
    frame[["text"]].to_csv(tmp_path / "a.tsv.gz", index=False, sep="\t")
    assert load_rows(tmp_path / "a.parquet") == load_rows(tmp_path / "b.parquet") == rows
    for name in ("a.csv", "a.tsv.gz", "a.parquet"):
        assert load_texts(tmp_path / name) == [cell, "b" * 200_000]
        assert len(load_rows(tmp_path / name, limit=1)) == 1


def test_datasets_folder_saved_or_with_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", as_jsonl(TEXTS))

    assert load_texts(tmp_path / "saved") == TEXTS
    assert load_texts(tmp_path / "splits", split="test") == TEXTS
    assert load_texts(tmp_path / "files", limit=1) == TEXTS[:1]
    with pytest.raises(ValueError, match=r"no split 'train'; it has test"):
        load_texts(tmp_path / "splits")


def test_limit_counts_texts_and_not_blank_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_jsonl(["", "one", "  ", "two", "three"]))
    assert load_texts(path, limit=2) == ["one", "two"]
    with pytest.raises(ValueError, match="at least 1"):
        load_texts(path, limit=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n\n{"text": \n', "line 3: broken JSON"),
        ("a.json", '[\n{"text": "x"},\n]', "line 3: broken JSON"),
        ("a.jsonl", "\n" + "[" * 100_000 + "]" * 100_000, "a.jsonl, line 2: this JSON cannot be read"),
        ("a.jsonl", '\n{"id": ' + "1" * 5000 + "}", "a.jsonl, line 2: this JSON cannot be read"),
        ("a.json", '{"text": "x"}', "expected a list"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("a.jsonl", '{"text": 3}\n', "row 1: column 'text' holds a int"),
        ("a.jsonl", '{"body": "x", "id": 1}\n', "no column 'text'; the columns present are 'body', 'id'"),
        ("a.jsonl", '{"text": " "}\n{"text": null}\n', "no non-empty text"),
        ("a.txt", "\n\n", "no non-empty text"),
        ("a.xlsx", "text\nx\n", "expected a name that ends in"),
        ("a.csv", "text,id\nx,1,2\n", "line 2: more values than the 2 names in the first line"),
        ("a.csv", 'text\n"x\n', "broken CSV"),
        ("a.parquet", "text\nx\n", "cut off, or not a Parquet file"),
    ],
)
def test_broken_content_is_named(tmp_path: Path, name: Any, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_texts(write(tmp_path / name, content))


def test_unreadable_bytes_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    whole = write(tmp_path / "whole.jsonl.gz", as_jsonl(TEXTS * 50)).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.txt.gz").write_bytes(b"not gzip")
    for name in ("latin1.txt", "cut.jsonl.gz", "plain.txt.gz"):
        with pytest.raises(ValueError, match="cut off, or not UTF-8"):
            load_texts(tmp_path / name)


def test_empty_and_missing_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no rows"):
        load_rows(write(tmp_path / "a.jsonl", ""))
    for missing in (tmp_path / "none", tmp_path / "none.jsonl", "none.txt", "./none", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no file"):
            load_rows(missing)


def test_unreachable_hub_id_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(source: Any, **_: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match=r"hub dataset 'owner/name': offline"):
        load_rows("owner/name")
