"""What is asked of the generator at each step, and what is made of its answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai_server
import pytest

from sae_posttrain.data import (
    Generator,
    Instructions,
    SynthesisTarget,
    explain_features,
    judge_relevance,
    kept_answers,
    load_generator,
    server_generator,
    synthesize_examples,
)
from sae_posttrain.data.generators import Messages, count_kept
from sae_posttrain.sampling import Endpoint, SamplingSettings

CATS = SynthesisTarget(1, 7, "questions about cats", passages=("a {prompt} cat", "two cats", "three cats"))
BOMBS = SynthesisTarget(1, 9, "weapons", label="refuse")


class Recorder:
    """Answers each chat by the function given, and keeps what was asked."""

    def __init__(self, answer: object = lambda chat: f"<{chat[-1]['content'].split(chr(10))[0]}>") -> None:
        self.answer = answer
        self.asked: list[Messages] = []

    def __call__(self, chats: Sequence[Messages]) -> list[str | None]:
        self.asked += chats
        return [self.answer(chat) for chat in chats]  # type: ignore[operator]


def test_the_explaining_model_sees_the_passages_with_their_peaks_marked() -> None:
    ask = Recorder(lambda chat: ' "cats in houses" ')
    passages = [[[("the", 0.1), (" small", 2.0), (" cat", 3.0), (" sat", 0.0)], [("no\ncat", 1.0)]], []]
    assert explain_features(passages, ask) == ["cats in houses", None]
    (chat,) = ask.asked
    assert "1. the** small cat** sat\n2. **no cat**\n" in chat[0]["content"]


def test_thinking_is_no_part_of_an_answer() -> None:
    answers = ["<think>\nOn a scale to 10…\n</think>\n\n7", "of 10</think> 8", "<think>Of 10 points, I"]
    found = judge_relevance(["a", "b", "c"], "safety", lambda chats: answers)
    assert found == [7.0, 8.0, None]


def test_thinking_without_an_answer_is_not_kept(tmp_path: Path) -> None:
    answers = iter(["<think>Of 10 points, I", "<think>I know.</think>7"])
    generate = kept_answers(lambda chats: [next(answers)], tmp_path / "answers.jsonl")
    chat: Messages = [{"role": "user", "content": "How many?"}]
    assert [list(generate([chat])) for _ in range(3)] == [[None], ["7"], ["7"]]
    assert count_kept(tmp_path / "answers.jsonl") == 1


def test_relevance_is_the_first_number_of_the_answer() -> None:
    answers = iter(["8", "I would say 7.5 of 10.", "none", "11"])
    ask = Recorder(lambda chat: next(answers))
    assert judge_relevance(["a", "b", None, "c", "d"], "safety", ask) == [8.0, 7.5, None, None, None]
    assert "Topic: safety" in ask.asked[0][0]["content"]
    assert len(ask.asked) == 4


def test_prompts_are_rewritten_and_answered_by_label() -> None:
    ask = Recorder()
    found = synthesize_examples([BOMBS, CATS], ask, per_target=2, rewrites=1, examples=2)
    assert [one.target.feature for one in found] == [9] * 4 + [7] * 4
    assert [one.rewrite for one in found] == [0, 0, 1, 1] * 2
    first, *_ = ask.asked
    assert "weapons" in first[0]["content"]
    assert "Texts of this kind" not in first[0]["content"]
    of_cats = ask.asked[2][0]["content"]
    assert "- a {prompt} cat\n- two cats\n" in of_cats  # braces in a passage are no place
    assert "three cats" not in of_cats
    assert all(one.plain in chat[0]["content"] for one, chat in zip([found[0], found[1]], ask.asked[4:6], strict=True))
    answered = ask.asked[8:]
    assert [chat[1]["content"] for chat in answered] == [one.prompt for one in found]
    assert {chat[0]["content"][:30] for chat in answered[:4]} == {"The user's message asks for so"}
    assert {chat[0]["content"][:30] for chat in answered[4:]} == {"Answer the user's message help"}
    assert found[2].plain == found[0].prompt != found[2].prompt


def test_the_control_is_told_nothing_of_the_feature() -> None:
    ask = Recorder()
    control = SynthesisTarget(1, 7, "", passages=CATS.passages)
    assert len(synthesize_examples([control], ask, per_target=3, examples=2, answers=False)) == 3
    assert all("cat" not in chat[0]["content"] for chat in ask.asked)


def test_what_the_generator_fails_to_write_is_left_out() -> None:
    answers = iter(["one", None, " ", "first answer"])
    found = synthesize_examples([CATS], lambda chats: [next(answers) for _ in chats], per_target=3)
    assert [(one.prompt, one.completion) for one in found] == [("one", "first answer")]


def test_a_label_needs_an_instruction() -> None:
    odd = SynthesisTarget(1, 7, "cats", label="purr")
    with pytest.raises(ValueError, match=r"label 'purr'; there are answer, refuse"):
        synthesize_examples([odd], Recorder())
    told = Instructions.of({"answers": {"purr": "Purr."}})
    ask = Recorder()
    synthesize_examples([odd], ask, per_target=1, instructions=told)
    assert ask.asked[-1][0] == {"role": "system", "content": "Purr."}


@pytest.mark.parametrize(
    ("values", "message"),
    [({"explane": "x"}, "Unknown instruction 'explane'"), ({"prompt": "Write."}, r"'prompt' lacks the place \{expl")],
)
def test_wrong_instructions_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instructions.of(values)


def test_answers_are_kept_and_only_what_is_missing_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    chats: list[Messages] = [[{"role": "user", "content": text}] for text in ("a", "a", "b", "c")]
    numbers = iter(range(100))

    def answer(chat: Messages) -> str | None:
        return None if chat[0]["content"] == "c" else f"{chat[0]['content']}{next(numbers)}"

    first = Recorder(answer)
    assert kept_answers(first, file)(chats) == ["a0", "a1", "b2", None]
    second = Recorder(lambda chat: "late")
    assert kept_answers(second, file)([*chats, chats[0]]) == ["a0", "a1", "b2", "late", "late"]
    assert [chat[0]["content"] for chat in second.asked] == ["c", "a"]
    assert len(file.read_text(encoding="utf-8").splitlines()) == 5
    file.write_text(json.dumps({"answer": "x"}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1, is no answer"):
        kept_answers(second, file)


def breaks_at_the_fourth(chats: Sequence[Messages]) -> Iterator[str]:
    for chat in chats:
        if chat[0]["content"] == "4":
            raise ConnectionError("gone")
        yield f"answer {chat[0]['content']}"


@pytest.mark.parametrize("at_once", [None, 2])
def test_answers_are_written_while_the_generator_works(tmp_path: Path, at_once: int | None) -> None:
    file = tmp_path / "answers.jsonl"
    chats: list[Messages] = [[{"role": "user", "content": str(n)}] for n in range(5)]
    broken: Generator = breaks_at_the_fourth if at_once is None else lambda chats: list(breaks_at_the_fourth(chats))
    with pytest.raises(ConnectionError):
        kept_answers(broken, file, at_once=at_once)(chats)
    again = Recorder(lambda chat: "new")
    assert kept_answers(again, file)(chats) == ["answer 0", "answer 1", "answer 2", "answer 3", "new"]
    assert len(again.asked) == 1


@pytest.mark.parametrize(
    ("answers", "says"),
    [([], "gave 0 answers to 2 chats"), (["a"] * 3, "gave 3 answers to 2"), (["a", 3], "chat 2 with a int; expected")],
)
def test_answers_that_fit_no_chat_are_refused(answers: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        synthesize_examples([CATS], lambda chats: answers, per_target=2)
    with pytest.raises(ValueError, match=says):
        synthesize_examples([CATS], kept_answers(lambda chats: answers, tmp_path / "a.jsonl"), per_target=2)


def test_answers_of_another_model_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    chats: list[Messages] = [[{"role": "user", "content": "a"}]]
    for model in ("small", "large", "small"):
        found = kept_answers(Recorder(lambda chat, by=model: by), file, {"model": model})(chats)  # type: ignore[misc]
        assert found == [model]
    assert count_kept(file) == 2


def test_half_a_line_of_a_killed_run_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    chats: list[Messages] = [[{"role": "user", "content": text}] for text in ("a", "b")]
    kept_answers(Recorder(lambda chat: "old"), file)(chats)
    file.write_bytes(file.read_bytes()[:-5])
    again = Recorder(lambda chat: "new")
    assert kept_answers(again, file)(chats) == ["old", "new"]
    assert [chat[0]["content"] for chat in again.asked] == ["b"]
    assert count_kept(file) == 2


def test_a_server_answers_with_a_seed_for_each_chat(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openai")
    told: list[dict[str, object]] = []

    def answer(path: str, body: dict[str, object]) -> openai_server.Answer:
        told.append(body)
        if body["messages"][0]["content"] == "bad":  # type: ignore[index]
            return 400, openai_server.refusal("no")
        return 200, openai_server.chat("Fine.")

    with openai_server.served(openai_server.FakeServer(answer)) as server:
        settings = SamplingSettings(0.5, 0.9, max_new_tokens=7, seed=3)
        generate = server_generator(Endpoint(server.url, "tiny", concurrency=2), settings)
        chats: list[Messages] = [[{"role": "user", "content": text}] for text in ("same", "same", "bad")]
        assert list(generate(chats)) == ["Fine.", "Fine.", None]
        assert "failed on 1 of 3 requests. The first error: Error code: 400" in caplog.text
        later = server_generator(Endpoint(server.url, "tiny"), settings, first=2)
        assert [*generate(chats[:1]), *later(chats[:1])] == ["Fine.", "Fine."]
    fine = [body for body in told if body["messages"] != chats[2]]
    assert len({body["seed"] for body in fine}) == 4  # also from call to call, and where a run goes on
    assert {(body["temperature"], body["max_tokens"]) for body in fine} == {(0.5, 7)}


def test_a_python_function_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_writer.py").write_text("def write(chats):\n    return ['hi'] * len(chats)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_generator("my_writer:write")([[{"role": "user", "content": "x"}]]) == ["hi"]
    for name, message in [("my_writer", "expected"), ("my_writer:read", "no function"), ("nowhere:f", "cannot import")]:
        with pytest.raises(ValueError, match=message):
            load_generator(name)
    sys.modules.pop("my_writer")
