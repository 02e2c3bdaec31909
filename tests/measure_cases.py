"""Responses to measure, and the measure command as a function."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from sae_posttrain.cli import measure

RESPONSES = [
    {"prompt": "What is 你好?", "language": "en", "response": "It is 你好."},
    {"prompt": "What is 你好?", "language": "en", "response": "A greeting."},
    {"prompt": "Write code", "language": "en", "response": "`打印` prints"},
    {"prompt": "Где?", "language": "ru", "response": "Там 那里."},
]


def measured(*arguments: Any, kind: str = "code-switching") -> Any:
    parser = argparse.ArgumentParser()
    measure.add_parser(parser.add_subparsers())
    args = parser.parse_args(["measure", kind, *map(str, arguments)])
    return args.run(args)


def as_json(capsys: pytest.CaptureFixture[str], *arguments: Any, **kind: str) -> Any:
    assert measured(*arguments, "--json", **kind) == 0
    return json.loads(capsys.readouterr().out)


def write(path: Any, rows: Any) -> Any:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


LOOPING = [
    {"prompt": "Count", "response": "Well: " + "on and on, " * 20},
    {"prompt": "Count", "response": "".join(f"Line {number} of it. " for number in range(10, 30)), "id": 7},
    {"prompt": "Stop", "response": "on and on, " * 20 + "until it stopped."},
    {"response": "fine"},
]
