"""Thinking told from the answer, with the places of both kept."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain.metrics import Thinking, find_loop, split_thinking, unexpected_spans
from sae_posttrain.metrics.thinking import as_thinking


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("It is 4.", "", "It is 4."),
        ("<think>2 + 2</think>It is 4.", "2 + 2", "It is 4."),
        ("\n<think>\n2 + 2\n</think>\n\nIt is 4.", "\n2 + 2\n", "\n\n\nIt is 4."),
        ("<think>2 + 2 and so", "2 + 2 and so", ""),  # cut at the token limit
        ("2 + 2</think>It is 4.", "2 + 2", "It is 4."),  # the chat template opened it
        ("<think></think>It is 4.", "", "It is 4."),  # as with thinking switched off
        ("<think>a</think>b<think>c</think>d", "ac", "bd"),
        ("<think>a<think>b</think>c", "ab", "c"),
        ("<think>a</think>b</think>c", "a", "bc"),
        ("Put `<think>` before and `</think>` after.", "", "Put `<think>` before and `</think>` after."),
        ("```\n<think>\n```\nis a tag", "", "```\n<think>\n```\nis a tag"),
        ("<think>a ```</think>b\n```\n<think>c</think>\n```\nd", "a ```", "b\n```\n<think>c</think>\n```\nd"),
        ("a\n```\nb\n```\n<think>c</think>d", "c", "a\n```\nb\n```\nd"),
    ],
)
def test_a_text_is_thinking_and_answer(text: str, thinking: Any, answer: Any) -> None:
    found = split_thinking(text)
    assert (found.thinking.text, found.answer.text) == (thinking, answer)
    assert found.has_thinking == bool(thinking.strip())
    assert found.is_unfinished == (bool(thinking) and not answer)
    for part in (found.thinking, found.answer):
        assert len(part.blanked) == len(text)
        assert part.blanked.count("\n") == text.count("\n")
        assert [text[part.place(place)] for place in range(len(part.text))] == list(part.text)


def test_a_prompt_that_opens_thinking_makes_an_uncut_text_thinking() -> None:
    assert split_thinking("I wonder", opened=True).is_unfinished
    assert split_thinking("I wonder</think>no", opened=True).answer.text == "no"


def test_tags_of_other_models() -> None:
    text = "<|channel|>analysis<|message|>2 + 2<|end|>It is 4."
    tags = ("<|channel|>analysis<|message|>", "<|end|>")
    assert split_thinking(text, tags).thinking.text == "2 + 2"
    assert Thinking("strip", tags).read(text, joined=True) == "It is 4."


@pytest.mark.parametrize(("part", "words"), [("strip", ["好"]), ("only", ["想"]), ("both", ["想", "好"])])
def test_what_counts_is_read_in_its_place(part: Any, words: Any) -> None:
    text = "<think>So 想 then</think>All 好."
    spans = unexpected_spans(Thinking(part).read(text), "en")
    assert [span.text for span in spans] == words
    assert all(text[span.start : span.end] == span.text for span in spans)


def test_tags_are_no_words() -> None:
    text, tags = "[think]Да[/think]Нет", ("[think]", "[/think]")
    assert unexpected_spans(text, "ru", count_latin=True)
    assert not unexpected_spans(Thinking(tags=tags).read(text), "ru", count_latin=True)


def test_a_loop_in_thinking_is_found_in_its_place() -> None:
    text = "<think>Hm. " + "on and on, " * 20 + "</think>"
    part = split_thinking(text).thinking
    loop = find_loop(part.text)
    assert loop is not None
    assert text[part.place(loop.start) :].startswith(part.text[loop.start : loop.start + loop.period])
    assert find_loop(Thinking("strip").read(text, joined=True)) is None


def test_a_choice_may_stand_for_its_settings() -> None:
    assert as_thinking("only") == Thinking("only")
    assert as_thinking(Thinking("strip", opened=True)).opened


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "none"}, "thinking must be one of both, strip, only, got 'none'"),
        ({"tags": ("<t>", "<t>")}, "expected two different tags"),
        ({"tags": ("", "<t>")}, "expected two different tags"),
        ({"tags": "<>"}, "expected two different tags"),
    ],
)
def test_settings_check_themselves(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thinking(**settings)
