"""Responses kept in a file: what comes back after a stop, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from sae_posttrain.sampling import KeptResponses, Response, describe_run

RUN = describe_run(["a", "b"], {"engine": "none", "model": "tiny"}, [{"temperature": 1.0}], samples=2)
FIRST, SECOND = Response("one", "stop", 2, (5, 1), "none 1"), Response("two\udc80 是\u2028", "length", 1, (6,), None)


def kept(folder: Path, run: dict[str, Any] = RUN, process: int = 0) -> KeptResponses:
    return KeptResponses(folder / "out.jsonl", run, process)


def test_responses_come_back_as_they_were(tmp_path: Path) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST})
        file.add({(0, 0, 1): SECOND})
    assert file.path == tmp_path / "out.partial.jsonl"
    with kept(tmp_path) as again:
        assert again.found == {(0, 0, 0): FIRST, (0, 0, 1): SECOND}
        again.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST, (0, 0, 1): SECOND})
    os.truncate(file.path, file.path.stat().st_size - cut)
    with kept(tmp_path) as again:
        assert again.found == {(0, 0, 0): FIRST}
        again.add({(0, 0, 1): SECOND})
    with kept(tmp_path) as last:
        assert last.found == {(0, 0, 0): FIRST, (0, 0, 1): SECOND}
    assert len(file.path.read_text(encoding="utf-8").split("\n")) == 4, "the run, two responses, nothing"


@pytest.mark.parametrize("length", [0, 1, 30])
def test_a_file_that_was_hardly_begun_is_begun_anew(tmp_path: Path, length: int) -> None:
    with kept(tmp_path) as file:
        pass
    os.truncate(file.path, length)
    with kept(tmp_path) as again:
        again.add({(0, 1, 0): FIRST})
    with kept(tmp_path) as last:
        assert last.found == {(0, 1, 0): FIRST}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, r'model was "tiny", now "other"'),
        ({"samples": 3}, r"samples was 2, now 3"),
        ({"settings": [{"temperature": 0.5}]}, r"settings was \[\{\"temperature\": 1.0\}\], now"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST})
    before = file.path.read_bytes()
    with pytest.raises(ValueError, match=f"another run: {message}"), kept(tmp_path, {**RUN, **change}):
        pass
    assert file.path.read_bytes() == before


def test_other_prompts_are_another_run(tmp_path: Path) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST})
    other = describe_run(["a", "c"], {"engine": "none", "model": "tiny"}, [{"temperature": 1.0}], samples=2)
    with pytest.raises(ValueError, match="prompts' hash was"), kept(tmp_path, other):
        pass


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.partial.jsonl").write_text('{"response": "mine"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no file of kept responses"), kept(tmp_path):
        pass


def test_a_run_that_got_no_response_stands_in_nobodys_way(tmp_path: Path) -> None:
    """As when a prompt is empty, which is then corrected."""
    with kept(tmp_path, {**RUN, "prompts": 5}), kept(tmp_path, {**RUN, "prompts": 5}, process=1):
        pass
    with kept(tmp_path) as again:
        again.add({(0, 0, 0): FIRST})
    with kept(tmp_path) as last:
        assert last.found == {(0, 0, 0): FIRST}
    assert len(last.path.read_text(encoding="utf-8").splitlines()) == 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.partial.jsonl").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is no file; move it away"), kept(tmp_path):
        pass


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with kept(tmp_path), pytest.raises(ValueError, match="Another process is writing"), kept(tmp_path):
        pass


def test_a_second_run_cuts_nothing_that_the_first_is_writing(tmp_path: Path) -> None:
    with kept(tmp_path) as first:
        with first.path.open("ab") as file:
            file.write(b'{"setting": 0, "prompt"')
        before = first.path.read_bytes()
        with pytest.raises(ValueError, match="Another process is writing"), kept(tmp_path):
            pass
        assert first.path.read_bytes() == before


def test_a_damaged_line_is_told_with_its_number(tmp_path: Path) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST})
    with file.path.open("a", encoding="utf-8") as damaged:
        damaged.write("{\n")
    with pytest.raises(ValueError, match="line 3, is no kept response"), kept(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prompt": None}, "'prompt' is no whole number"),
        ({"sample": "0"}, "'sample' is no whole number"),
        ({"setting": [0]}, "'setting' is no whole number"),
        ({"tokens": "3"}, "'tokens' is no whole number"),
        ({"response": None}, "'response' is no text"),
        ({"finish_reason": "eos"}, "'finish_reason' is none of"),
        ({"ids": None}, "'ids' are no token ids"),
        ({"ids": ["1"]}, "'ids' are no token ids"),
    ],
)
def test_a_line_that_was_edited_is_told_with_its_number(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with kept(tmp_path) as file:
        file.add({(0, 0, 0): FIRST})
    first, line = file.path.read_text(encoding="utf-8").splitlines()
    file.path.write_text(f"{first}\n{json.dumps({**json.loads(line), **change})}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 2, is no kept response \\({problem}"), kept(tmp_path):
        pass
    file.path.write_text(f"{first}\n[]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="it is no object"), kept(tmp_path):
        pass


def test_only_the_process_that_writes_the_output_deletes_the_files(tmp_path: Path) -> None:
    with kept(tmp_path) as first, kept(tmp_path, process=1) as second:
        first.add({(0, 0, 0): FIRST})
        second.add({(0, 1, 0): SECOND})
        second.remove()  # while the first still writes
        assert first.path.exists()
        assert second.path.exists()
        first.remove()
    assert not any(tmp_path.iterdir())


def test_each_process_has_its_own_file_and_reads_all(tmp_path: Path) -> None:
    with kept(tmp_path) as first, kept(tmp_path, process=1) as second:
        first.add({(0, 0, 0): FIRST})
        second.add({(0, 1, 0): SECOND})
    assert second.path == tmp_path / "out.1.partial.jsonl"
    (tmp_path / "out.other.partial.jsonl").write_text("not of this run", encoding="utf-8")
    with kept(tmp_path) as one:  # goes on with fewer processes
        assert one.found == {(0, 0, 0): FIRST, (0, 1, 0): SECOND}
        one.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["out.other.partial.jsonl"]


def fill(output: Path, told: Path) -> None:
    """Write responses until the system allows no larger file, as on a full disk; in a process of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    told.touch()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with KeptResponses(output, describe_run(["a"], {}, [{}], samples=100)) as kept:
        try:
            for number in range(100):
                kept.add({(0, 0, number): Response("x" * 40, "stop", 1)})
        except OSError as error:
            told.write_text(str(error), encoding="utf-8")


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    output, message = tmp_path / "out.jsonl", tmp_path / "message"
    child = os.fork()
    if child == 0:
        try:
            fill(output, message)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = message.read_text(encoding="utf-8")
    assert "out.partial.jsonl cannot be written: File too large. The" in told
    assert "make room, and run the same command again" in told
    assert output.with_suffix(".partial.jsonl").stat().st_size == 2000
    with KeptResponses(output, describe_run(["a"], {}, [{}], samples=100)) as kept:
        whole = len(kept.found)
        assert f"The {whole} responses before are kept" in told
        assert whole > 5
        kept.add({(0, 0, whole): FIRST})
    rows = [json.loads(line) for line in kept.path.read_text(encoding="utf-8").splitlines()]
    assert [row["sample"] for row in rows[1:]] == list(range(whole + 1))
