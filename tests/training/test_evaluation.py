"""Rates measured while training: what is logged, and that the run does not change in any bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from sae_posttrain import (
    RateEvaluationCallback,
    SASFTCallback,
    code_switching_rate,
    repetition_rate,
)
from sae_posttrain.metrics import PhraseFinder
from sae_posttrain.sampling import Response, SamplingSettings, sample_responses

from .rollouts import world as rollouts
from .sasft.world import World, build_world

PROMPTS = [
    {"prompt": "the cat sees", "language": "en"},
    {"prompt": "кошка видит", "language": "ru"},
    {"prompt": "a small house and", "language": "en"},
]
SAMPLING = {"sampling": SamplingSettings(top_p=1.0, max_new_tokens=12, seed=3), "samples": 4, "batch_size": 5}
OURS = {
    "eval_code_switching",
    "eval_code_switching_count",
    "eval_code_switching_responses",
    "eval_code_switching_words",
    "eval_repetition",
    "eval_repetition_count",
    "eval_responses",
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path)


def sft(world: World, model: nn.Module, **changes: Any) -> SFTTrainer:
    settings = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 0.05, **changes}
    args = SFTConfig(**world.arguments(**settings))
    return SFTTrainer(model, args, train_dataset=world.dataset, processing_class=world.tokenizer)


def responses(texts: list[list[str]]) -> list[list[Response]]:
    """As sampled, each cut at the token limit."""
    return [[Response(text, "length") for text in found] for found in texts]


def evaluation(every: int = 2, **changes: Any) -> RateEvaluationCallback:
    return RateEvaluationCallback(PROMPTS, every, **{**SAMPLING, **changes})


def trained(trainer: Trainer, *callbacks: TrainerCallback) -> Trainer:
    for callback in callbacks:
        trainer.add_callback(callback)
    torch.manual_seed(7)
    trainer.train()
    return trainer


def logs(trainer: Trainer, *, ours: bool) -> list[dict[str, Any]]:
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
    return [
        {name: value for name, value in log.items() if name not in timed}
        for log in trainer.state.log_history
        if ("eval_repetition" in log) == ours
    ]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    """All logs but ours, and all weights."""
    assert logs(one, ours=False) == logs(other, ours=False)
    expected = other.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in one.model.state_dict().items())


def adapted(world: World) -> nn.Module:
    torch.manual_seed(5)
    lora = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.3, init_lora_weights=False)
    return get_peft_model(world.make_model(attention_dropout=0.2), lora)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda world: world.make_model(attention_dropout=0.2), {"gradient_checkpointing": True}),
        (adapted, {"gradient_accumulation_steps": 2, "packing": True, "max_length": 24, "logging_steps": 3}),
    ],
    ids=["checkpointing", "LoRA, accumulation, packing"],
)
def test_the_run_does_not_change_in_any_bit(make: Callable[[World], nn.Module], settings: Any, world: World) -> None:
    plain = trained(sft(world, make(world), **settings))
    watched = sft(world, make(world), **settings)
    config = watched.model.generation_config
    kept = (config, config.to_dict(), watched.model.config.use_cache)
    trained(watched, evaluation())
    assert_same_run(watched, plain)
    assert [log["step"] for log in logs(watched, ours=True)] == [0, 2, 4]
    config = watched.model.generation_config
    assert (config, config.to_dict(), watched.model.config.use_cache) == kept
    assert all(module.training for module in watched.model.modules())


def test_rotary_frequencies_that_grew_with_an_answer_are_put_back(world: World) -> None:
    def run(*callbacks: TrainerCallback) -> SFTTrainer:
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        return trained(sft(world, world.make_model(max_position_embeddings=8, rope_parameters=rope)), *callbacks)

    plain, watched = run(), run(evaluation(sampling=SamplingSettings(top_p=1.0, max_new_tokens=24, seed=3)))
    assert_same_run(watched, plain)
    ours, theirs = watched.model.model.rotary_emb, plain.model.model.rotary_emb
    assert ours.max_seq_len_cached == theirs.max_seq_len_cached > 8
    assert torch.equal(ours.inv_freq, theirs.inv_freq)


def test_what_is_logged_is_what_the_model_answers(world: World) -> None:
    trainer = trained(sft(world, adapted(world)), evaluation())
    answers = sample_responses(
        trainer.model.eval(), world.tokenizer, [row["prompt"] for row in PROMPTS], progress=False, **SAMPLING
    )
    flat = [response.text for found in answers for response in found]
    switched = code_switching_rate(flat, [row["language"] for row in PROMPTS for _ in range(4)])
    last = logs(trainer, ours=True)[-1]
    assert last["eval_code_switching"] == switched.rate > 0
    assert last["eval_code_switching_count"] == switched.overall.hits
    assert last["eval_code_switching_responses"] == 12
    assert last["eval_code_switching_words"] == switched.words > 0
    assert (last["eval_repetition"], last["eval_responses"]) == (repetition_rate(flat).rate, 12)
    assert last.keys() > OURS


def test_loops_are_counted_and_languages_may_be_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = responses([["and so on, " * 20, "fine"], ["猫", "и"]])
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: answers)
    callback = RateEvaluationCallback([{"prompt": "the cat"}, {"prompt": "a house"}], 9, samples=2)
    (log, _) = logs(trained(sft(world, world.make_model(), max_steps=1), callback), ours=True)
    assert {name: log[name] for name in log.keys() & OURS} == {
        "eval_repetition": 0.25,
        "eval_repetition_count": 1,
        "eval_responses": 4,
    }


@pytest.mark.parametrize(
    ("to", "switched", "total"), [(None, 3, 6), ("zh", 2, 6), (["ru", "ko"], 1, 6), ("ru", 1, 4), ("en", 0, 2)]
)
def test_only_switches_into_the_target_count(
    to: Any, switched: int, total: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = responses([["the 猫", "the cat"], ["видит", "видит 猫"], ["a дом", "a"]])
    monkeypatch.setattr("sae_posttrain.training.evaluation.sample_responses", lambda *args, **settings: answers)
    trainer = trained(sft(world, world.make_model(), max_steps=1), evaluation(to=to, samples=2))
    log = logs(trainer, ours=True)[0]
    assert (log["eval_code_switching_count"], log["eval_code_switching_responses"]) == (switched, total)
    assert log["eval_code_switching"] == switched / total
    assert log["eval_responses"] == 6


def test_sasft_goes_on_as_without(world: World) -> None:
    def run(*more: TrainerCallback) -> Trainer:
        trainer = sft(world, world.make_model(attention_dropout=0.2))
        trainer.add_callback(SASFTCallback(world.features, suppress="zh", weight=1.0).set_trainer(trainer))
        return trained(trainer, *more)

    plain, watched = run(), run(evaluation())
    assert_same_run(watched, plain)
    assert any("sasft_loss" in log for log in logs(watched, ours=False))
    assert [log.keys() & {"sasft_loss", "mean_token_accuracy"} for log in logs(watched, ours=True)] == [set()] * 3


def test_a_plain_trainer_is_served_and_every_tracker_told(world: World) -> None:
    ids = world.tokenizer([row["prompt"] + row["completion"] for row in world.dataset])["input_ids"]
    dataset = Dataset.from_list([{"input_ids": row[:5], "labels": row[:5]} for row in ids])
    told: list[dict[str, Any]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told.append(dict(logs))

    def run(*more: TrainerCallback) -> Trainer:
        args = TrainingArguments(**world.arguments(max_steps=3, per_device_train_batch_size=2, learning_rate=0.01))
        trainer = Trainer(world.make_model(), args, train_dataset=dataset, processing_class=world.tokenizer)
        return trained(trainer, *more)

    assert_same_run(run(evaluation(every=2), Tracker()), run())
    assert [log["eval_responses"] for log in told if log.keys() >= OURS] == [12, 12, 12]  # before, at 2, and at the end


def test_grpo_goes_on_as_without(tmp_path: Path) -> None:
    def run(*more: TrainerCallback) -> Trainer:
        return trained(rollouts.plain(tmp_path, max_steps=2), *more)

    words = [{"prompt": "again and bird", "language": "en"}]
    watched = run(RateEvaluationCallback(words, 1, sampling=SamplingSettings(max_new_tokens=5), samples=2))
    timed = {"step_time"}
    without = [{k: v for k, v in log.items() if k not in timed} for log in logs(run(), ours=False)]
    assert [{k: v for k, v in log.items() if k not in timed} for log in logs(watched, ours=False)] == without
    assert len(logs(watched, ours=True)) == 3


class Stop(TrainerCallback):
    """Ends the run early, perhaps as one whose best weights were those of its first step."""

    def __init__(self, event: str, step: int, best: str | None = None) -> None:
        self.step, self.best = step, best
        setattr(self, event, self.stop)

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step
        if self.best:
            state.best_model_checkpoint, state.best_global_step = self.best, 1


@pytest.mark.parametrize(
    ("stop", "settings", "measured"),
    [
        (("on_step_end", 3), {}, [0, 2, 3]),
        (("on_step_end", 2), {}, [0, 2]),
        (("on_log", 3), {"logging_steps": 1}, [0, 2, 3]),
        (("on_epoch_end", 3), {"per_device_train_batch_size": 3}, [0, 2, 3]),
        (("on_log", 3, "checkpoint-1"), {"logging_steps": 1}, [0, 2, 3]),
        (("on_epoch_end", 3, "checkpoint-1"), {"per_device_train_batch_size": 3}, [0, 2]),
    ],
)
def test_a_run_that_stops_early_is_measured_after_its_last_step(
    stop: Any, settings: dict[str, Any], measured: list[int], world: World
) -> None:
    if len(stop) == 3:
        settings = {**settings, "load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    args = SFTConfig(**world.arguments(**{"per_device_train_batch_size": 2, "max_steps": 9, **settings}))
    data = {"train_dataset": world.dataset, "eval_dataset": world.dataset}
    trainer = SFTTrainer(world.make_model(), args, processing_class=world.tokenizer, **data)
    trained(trainer, evaluation(), Stop(*stop))
    assert [log["step"] for log in logs(trainer, ours=True)] == measured


def test_an_error_while_generating_costs_one_measurement_and_not_the_run(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(sft(world, world.make_model(attention_dropout=0.2)))
    watched = sft(world, world.make_model(attention_dropout=0.2))
    generate, calls = watched.model.generate, []

    def failing_first(*args: Any, **kwargs: Any) -> Any:
        calls.append(torch.rand(1))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no room")
        return generate(*args, **kwargs)

    monkeypatch.setattr(watched.model, "generate", failing_first)
    with caplog.at_level(logging.WARNING):
        trained(watched, evaluation())
    assert_same_run(watched, plain)
    assert [log["step"] for log in logs(watched, ours=True)] == [2, 4]
    assert "Step 0 is not evaluated; training continues. ValueError: 5 responses at once do not fit" in caplog.text


def test_a_resumed_run_is_measured_where_it_would_have_been(world: World) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01}
    whole = trained(sft(world, world.make_model(), **saving), evaluation())
    resumed = sft(world, world.make_model(), **saving)
    resumed.add_callback(evaluation())
    resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-2"))
    measured, expected = logs(resumed, ours=True), logs(whole, ours=True)
    # The resumed run meets its rows in another order, so that its answers differ.
    assert [(log["step"], log["eval_responses"], set(log)) for log in measured] == [
        (log["step"], log["eval_responses"], set(log)) for log in expected
    ]


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "prompts is empty"),
        (["the cat"], {}, "row 1: expected a row with 'prompt'"),
        ([{"text": "the cat"}], {}, "row 1: expected a row with 'prompt'"),
        ([PROMPTS[0], {"prompt": "a"}], {}, "row 2 has no 'language', but other rows have one"),
        ([PROMPTS[0], {"prompt": "a", "language": ""}], {}, "row 2 has no 'language', but other rows have one"),
        ([{"prompt": "a", "language": "xx"}], {}, "unknown language 'xx'"),
        ([{"prompt": "a", "language": "zh"}], {"to": "zh"}, "nothing to measure"),
        (PROMPTS, {"every": 0}, "every must be at least 1"),
        (PROMPTS, {"every": 2.5}, "every must be a whole number, got 2.5"),
        (PROMPTS, {"every": float("nan")}, "every must be a whole number, got nan"),
        (PROMPTS, {"every": "5"}, "every must be a whole number, got '5'"),
        (PROMPTS, {"every": True}, "every must be a whole number, got True"),
        (PROMPTS, {"samples": 1.5}, "samples must be a whole number, got 1.5"),
        (PROMPTS, {"phrases": True}, "phrases must be a PhraseFinder or None, got True"),
        (PROMPTS, {"sampling": {"temperature": 1}}, "sampling must be SamplingSettings"),
        (PROMPTS, {"samples": 0}, "samples must be at least 1"),
        (PROMPTS, {"phrases": PhraseFinder(["en", "fr"], scorer=lambda word: {"en": 0.0})}, "no score for 'fr'"),
    ],
)
def test_bad_settings_are_refused(prompts: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateEvaluationCallback(prompts, **{"every": 1, **settings})


def test_what_cannot_answer_is_refused_before_the_first_step(world: World) -> None:
    trainer = sft(world, world.make_model())
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        trained(trainer, evaluation(chat=True))
    assert trainer.state.global_step == 0
    trainer.processing_class = None
    with pytest.raises(ValueError, match="no processing_class"):
        evaluation().set_trainer(trainer)
    trainer = sft(world, world.make_model())
    next(trainer.model.parameters()).ds_status = "as DeepSpeed marks a part of a weight"
    with pytest.raises(ValueError, match="ZeRO-3 cannot generate safely"):
        evaluation().set_trainer(trainer)
    trainer = sft(world, world.make_model())
    trainer.model = T5ForConditionalGeneration(T5Config(vocab_size=8, d_model=4, d_ff=4, d_kv=2, num_layers=1))
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        evaluation().set_trainer(trainer)
    trainer.model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Linear cannot generate"):
        evaluation().set_trainer(trainer)
