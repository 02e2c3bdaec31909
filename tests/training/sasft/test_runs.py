"""What a run with SASFT does besides its gradient: stays plain where it should, logs, hooks and unhooks."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset
from torch import Tensor, equal
from trl import SFTTrainer

from .exactness import record
from .routes import plain, with_callback, with_trainer
from .world import Route, World

ADAM = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4}
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def weights(trainer: SFTTrainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))


def losses(trainer: SFTTrainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


class TestPlainWhereItShouldBe:
    @both_routes
    @pytest.mark.parametrize("packing", [{}, {"packing": True, "max_length": 24}], ids=["padded", "packed"])
    def test_zero_weight_is_plain_sft_bit_for_bit(self, route: Route, packing: dict[str, Any], world: World) -> None:
        ours = world.run(route, weight=0.0, token_weight=0.0, token_share=0.5, **ADAM, **packing)
        theirs = world.run(plain, **ADAM, **packing)
        ours.train()
        theirs.train()
        assert same(weights(ours), weights(theirs))
        assert losses(ours) == losses(theirs)
        assert ours.state.log_history[0]["sasft_loss"] > 0
        assert ours.state.log_history[0]["sasft_token_loss"] > 0
        record(f"weight 0, {'packed' if packing else 'padded'}: weights after 3 steps", route, "bit-identical to SFT")

    @both_routes
    def test_zero_weight_needs_no_boundaries_between_examples(
        self, route: Route, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """`wrapped` packing without a language column, which a positive weight refuses."""
        dataset = world.dataset.remove_columns("language")
        settings: dict[str, Any] = {**ADAM, "packing": True, "packing_strategy": "wrapped", "max_length": 16}
        ours = world.run(route, weight=0.0, token_weight=0.0, dataset=dataset, **settings)
        theirs = world.run(plain, dataset=dataset, **settings)
        ours.train()
        theirs.train()
        assert same(weights(ours), weights(theirs))
        assert losses(ours) == losses(theirs)
        assert not any(name.startswith("sasft") for log in ours.state.log_history for name in log)
        assert any("continues as plain SFT" in message for message in caplog.messages)
        record("weight 0, wrapped: weights after 3 steps", route, "bit-identical to SFT")

    @both_routes
    def test_nothing_to_penalise_is_plain_sft_bit_for_bit(self, route: Route, world: World) -> None:
        chinese = world.dataset.filter(lambda row: row["language"] == "zh")
        ours = world.run(route, dataset=chinese, token_weight=1.0, **ADAM)
        theirs = world.run(plain, dataset=chinese, **ADAM)
        ours.train()
        theirs.train()
        assert same(weights(ours), weights(theirs))
        assert ours.state.log_history[0]["sasft_penalised_share"] == 0
        assert ours.state.log_history[0]["sasft_token_penalised_share"] == 0
        record("no penalised token: weights after 3 steps", route, "bit-identical to SFT")

    @both_routes
    def test_evaluation_is_untouched(self, route: Route, world: World) -> None:
        expected = world.run(plain, eval_dataset=world.dataset).evaluate()["eval_loss"]
        evaluation: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
        ours = world.run(route, eval_dataset=world.dataset, token_weight=1.0, max_steps=2, **evaluation)
        ours.train()
        first = next(log for log in ours.state.log_history if "eval_loss" in log)
        assert first["eval_loss"] == expected
        assert not any(key.startswith("sasft") for key in first)
        assert ours.evaluate()["eval_loss"] > 0
        record("evaluation loop", route, "bit-identical to SFT")


class TestLogs:
    @both_routes
    def test_values_do_not_depend_on_accumulation(self, route: Route, world: World) -> None:
        logs = []
        for batch, accumulation in ((8, 1), (2, 4)):
            trainer = world.run(
                route,
                suppress=["zh", "ru"],
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
            )
            trainer.train()
            logs.append({k: v for k, v in trainer.state.log_history[0].items() if k.startswith("sasft")})
        assert logs[0].keys() == {
            "sasft_loss",
            "sasft_penalised_share",
            "sasft_unknown_share",
            "sasft_by_column_share",
            "sasft_by_function_share",
            "sasft_by_script_share",
            "sasft_no_baseline_share",
            "sasft_pre_activation_zh",
            "sasft_pre_activation_ru",
        }
        assert logs[1] == pytest.approx(logs[0], rel=1e-4)

    def test_the_logged_loss_is_the_difference_to_plain_sft(self, world: World) -> None:
        settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
        ours, theirs = world.run(with_callback, weight=0.5, **settings), world.run(plain, **settings)
        ours.train()
        theirs.train()
        logged = ours.state.log_history[0]["sasft_loss"]
        assert losses(ours)[0] - losses(theirs)[0] == pytest.approx(0.5 * logged, rel=1e-3)

    def test_a_log_of_several_steps_is_their_mean(self, world: World) -> None:
        settings = {**ADAM, "max_steps": 4}
        each, pairs = world.run(with_trainer, **settings), world.run(with_trainer, **{**settings, "logging_steps": 2})
        each.train()
        pairs.train()
        single, paired = (
            [log["sasft_loss"] for log in t.state.log_history if "sasft_loss" in log] for t in (each, pairs)
        )
        assert paired == pytest.approx([sum(single[:2]) / 2, sum(single[2:]) / 2], rel=1e-4)

    def test_a_resumed_run_logs_what_an_uninterrupted_one_logs(self, world: World) -> None:
        settings = {**ADAM, "max_steps": 4, "logging_steps": 2}
        whole = world.run(with_trainer, **settings)
        whole.train()
        world.run(with_trainer, **settings, save_strategy="steps", save_steps=2).train()
        resumed = world.run(with_trainer, **settings)
        resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-2"))
        expected, again = (
            [(log["loss"], log["sasft_loss"]) for log in t.state.log_history if "sasft_loss" in log]
            for t in (whole, resumed)
        )
        assert again == expected

    def test_shares_of_penalised_and_unknown_tokens(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        rows = list(world.dataset)
        # ru becomes a language without a baseline; the last en row's answer holds nothing that tells its language.
        told = [{**row, "language": "th" if row["language"] == "ru" else row["language"]} for row in rows]
        told[-1] = {**told[-1], "completion": " <unk>" * 4, "language": None}
        trainer = world.run(with_trainer, dataset=Dataset.from_list(told), max_steps=2)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        tokens = dict.fromkeys(("en", "zh", "th", None), 0)
        for row in told:
            tokens[row["language"]] += len(world.tokenizer(row["completion"] + "<eos>")["input_ids"])
        total = sum(tokens.values())
        log = trainer.state.log_history[0]
        assert log["sasft_penalised_share"] == pytest.approx(tokens["en"] / total)
        assert log["sasft_no_baseline_share"] == pytest.approx(tokens["th"] / total)
        assert log["sasft_unknown_share"] == pytest.approx(tokens[None] / total)
        for advice in ("language is not known", "has no baseline"):
            assert sum(advice in message for message in caplog.messages) == 1
