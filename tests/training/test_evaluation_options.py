"""What counts as a switch while training: the options of the callback are those of the reward."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain import RateEvaluationCallback
from sae_posttrain.training.rewards import CodeSwitchingPenalty

from .sasft.world import World
from .test_evaluation import PROMPTS, logs, responses, sft, trained, world

__all__ = ["world"]  # the fixture


def test_a_prompt_may_allow_languages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = responses([["the 猫"], ["видит 猫"], ["a дом"]])
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: answers)
    prompts = [{**row, "allowed": allowed} for row, allowed in zip(PROMPTS, (["zh"], None, "ru"), strict=True)]
    log = logs(trained(sft(world, world.make_model(), max_steps=1), RateEvaluationCallback(prompts, 9)), ours=True)[0]
    assert log["eval_code_switching_count"] == 1
    assert log["eval_code_switching_words"] == pytest.approx((0.5 / 1.5) / 3)


@pytest.mark.parametrize(
    ("options", "switched"),
    [
        ({}, 2),
        ({"ignore_prompt": True}, 1),
        ({"ignore_glosses": True}, 1),
        ({"ignore_code": False}, 3),
        ({"ignore_code": False, "allowed": ["Cyrl"]}, 1),
        ({"to": "zh", "ignore_prompt": True}, 0),
    ],
)
def test_options_of_what_counts_are_those_of_the_reward(
    options: dict[str, Any], switched: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the 猫", "Tolstoy (Толстой) wrote it", "`дом` it is"]
    answers = responses([[text] for text in texts])
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: answers)
    prompts = [{"prompt": prompt, "language": "en"} for prompt in ("What is 猫?", "Who?", "What?")]
    callback = RateEvaluationCallback(prompts, 9, **options)
    log = logs(trained(sft(world, world.make_model(), max_steps=1), callback), ours=True)[0]
    reward = CodeSwitchingPenalty(**{"ignore_prompt": False, **options})
    rewards = reward([row["prompt"] for row in prompts], texts, language=["en"] * 3)
    assert log["eval_code_switching_count"] == switched == rewards.count(-1.0)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="ignore_gloss"):
        RateEvaluationCallback(PROMPTS, 9, ignore_gloss=True)
