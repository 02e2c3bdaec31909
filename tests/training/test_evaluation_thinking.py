"""Rates of the thinking and of the answers, measured while training."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain import RateEvaluationCallback
from sae_posttrain.metrics import Thinking

from .sasft.world import World
from .test_evaluation import PROMPTS, logs, responses, sft, trained, world

__all__ = ["world"]  # the fixture

THOUGHTS = [
    ["<think>猫</think>the cat", "<think>the " + "and so on, " * 20],
    ["<think>и</think>видит 猫", "видит"],
]


@pytest.mark.parametrize(
    ("thinking", "answers", "thoughts"),
    [
        ("both", (1, 0, 4), (1, 1, 3)),
        ("strip", (1, 0, 4), None),
        ("only", (1, 1, 3), None),
        (Thinking("both", ("[", "]")), (2, 1, 4), None),  # none thinks: whole answers
    ],
)
def test_thinking_and_answers_are_measured_apart(
    thinking: Any, answers: tuple[int, ...], thoughts: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = responses(THOUGHTS)
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: sampled)
    callback = RateEvaluationCallback(PROMPTS[:2], 9, samples=2, thinking=thinking)
    (log, _) = logs(trained(sft(world, world.make_model(), max_steps=1), callback), ours=True)

    def found(prefix: str) -> tuple[int, ...]:
        return tuple(log[prefix + name] for name in ("code_switching_count", "repetition_count", "responses"))

    assert found("eval_") == answers
    assert ("eval_thinking_responses" in log) == (thoughts is not None)
    if thoughts is not None:
        assert found("eval_thinking_") == thoughts
        assert log["eval_unfinished_thinking"] == 1


def test_a_template_that_opens_thinking_is_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = responses([["the 猫", "the</think>cat"]])
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: sampled)
    world.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %} <think>\n"
    callback = RateEvaluationCallback(PROMPTS[:1], 9, samples=2, thinking="strip")
    (log, _) = logs(trained(sft(world, world.make_model(), max_steps=1), callback), ours=True)
    assert (log["eval_code_switching_count"], log["eval_unfinished_thinking"]) == (0, 1)
