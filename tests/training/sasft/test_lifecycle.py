"""From construction to the last removed hook: SASFT does the right thing, or says what is wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from versions import TRL_NEEDS_ITS_OWN_LOGITS

from sae_posttrain import SASFTCallback
from sae_posttrain.residual import decoder_blocks

from .routes import plain, with_callback, with_trainer
from .world import Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()


def hooks(model: nn.Module) -> list[int]:
    return [len(block._forward_hooks) for block in decoder_blocks(model)]


def first_log(trainer: SFTTrainer) -> dict[str, float]:
    return trainer.state.log_history[0]


class TestFindingTheTrainer:
    def test_without_set_trainer(self, world: World) -> None:
        trainer = SFTTrainer(
            world.make_model(),
            SFTConfig(**world.arguments()),
            train_dataset=world.dataset.remove_columns("language"),
            processing_class=world.tokenizer,
            callbacks=[SASFTCallback(world.features, suppress="zh", weight=1.0)],
        )
        trainer.train()
        assert first_log(trainer)["sasft_loss"] > 0
        assert hooks(trainer.model) == [0, 0, 0]

    def test_one_callback_serves_one_trainer_after_another(self, world: World) -> None:
        dataset = world.dataset.remove_columns("language")
        callback = SASFTCallback(world.features, suppress="zh", weight=1.0)
        logged = []
        first, second = (world.run(plain, dataset=dataset) for _ in range(2))
        for trainer in (first, second):
            trainer.add_callback(callback)
        for trainer in (first, second, first):
            trainer.train()
            logged.append(first_log(trainer)["sasft_loss"])
        assert logged[0] == logged[1] > 0
        assert logged[2] > 0


class Other(TrainerCallback):
    """A user's callback that also puts itself before the loss."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        inner = self.trainer.compute_loss

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            return inner(*args, **kwargs)

        self.trainer.compute_loss = counted


class TestOrder:
    @pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
    def test_beside_another_callback(self, first: bool, world: World) -> None:
        alone = world.run(with_callback)
        alone.train()
        trainer, other = world.run(plain), Other()
        other.trainer = trainer
        callback = SASFTCallback(world.features, suppress="zh", weight=1.0)
        for one in (callback, other) if first else (other, callback):
            trainer.add_callback(one)
        callback.set_trainer(trainer)
        trainer.train()
        assert other.seen == 1
        assert first_log(trainer)["loss"] == first_log(alone)["loss"]
        assert first_log(trainer)["sasft_loss"] == first_log(alone)["sasft_loss"]

    def test_set_trainer_twice_adds_the_loss_once(self, world: World) -> None:
        alone, trainer = world.run(with_callback), world.run(plain)
        callback = SASFTCallback(world.features, suppress="zh", weight=1.0).set_trainer(trainer).set_trainer(trainer)
        trainer.add_callback(callback)
        for one in (alone, trainer):
            one.train()
        assert first_log(trainer)["loss"] == first_log(alone)["loss"]

    def test_a_second_callback_is_refused_while_training_too(self, world: World) -> None:
        dataset = world.dataset.remove_columns("language")
        trainer = world.run(with_callback, dataset=dataset)
        trainer.add_callback(SASFTCallback(world.features, suppress="ru"))
        with pytest.raises(ValueError, match="already has SASFT"):
            trainer.train()

    def test_a_callback_taken_away_again(self, world: World) -> None:
        trainer = world.run(with_callback)
        trainer.remove_callback(SASFTCallback)
        with pytest.raises(RuntimeError, match=r"trainer.add_callback\(callback\)"):
            trainer.train()


class TestTwice:
    @pytest.mark.parametrize("settings", [{}, COMPILED], ids=["plain", "compiled"])
    @both_routes
    def test_training_again_hooks_once(self, route: Route, settings: dict[str, Any], world: World) -> None:
        trainer = world.run(route, learning_rate=0.0, **settings)
        logged = []
        for _ in range(2):
            trainer.train()
            logged.append((first_log(trainer)["loss"], first_log(trainer)["sasft_loss"]))
            assert hooks(trainer.model) == [0, 0, 0]
        assert logged[1] == pytest.approx(logged[0])
        assert logged[0][1] > 0


class TestTooLate:
    def test_attached_after_a_compiled_forward(self, world: World) -> None:
        """The graph was traced without hooks, and hooks that come later do not run."""
        trainer = world.run(plain, dataset=world.dataset.remove_columns("language"), **COMPILED)
        trainer.train()
        trainer.add_callback(SASFTCallback(world.features, suppress="zh", weight=1.0).set_trainer(trainer))
        with pytest.raises(RuntimeError, match=r"layers \[1, 2\] were not captured. Attach SASFT before"):
            trainer.train()

    @pytest.mark.skipif(TRL_NEEDS_ITS_OWN_LOGITS, reason="TRL before 1.15 fails without its fused head")
    @both_routes
    def test_a_copied_model_that_runs_the_originals_blocks(self, route: Route, world: World) -> None:
        """TRL's forward without its fused head is a closure over the original, which a copy still calls."""
        trainer = world.run(route, label_smoothing_factor=0.1)
        trainer.model = trainer.model_wrapped = copy.deepcopy(trainer.model)
        with pytest.raises(RuntimeError, match="not a copy"):
            trainer.train()
        assert hooks(trainer.model) == [0, 0, 0]


@pytest.mark.skipif(TRL_NEEDS_ITS_OWN_LOGITS, reason="TRL before 1.15 trains the original's head, SASFT or not")
@both_routes
def test_a_copied_model_that_runs_its_own_blocks(route: Route, world: World) -> None:
    copied, uncopied = world.run(route), world.run(route)
    copied.model = copied.model_wrapped = copy.deepcopy(copied.model)
    for trainer in (copied, uncopied):
        trainer.train()
    pairs = zip(copied.model.parameters(), uncopied.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert first_log(copied)["sasft_loss"] == first_log(uncopied)["sasft_loss"] > 0


def broken_language(inputs: Any) -> Any:
    raise RuntimeError("the user's own bug")


class Breaks(TrainerCallback):
    """A user's callback with a bug, at a moment that SASFT has no part in."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.fail)

    def fail(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the user's own bug")


class TestHooksGoAway:
    @pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log"])
    @both_routes
    def test_after_an_exception(self, route: Route, event: str, world: World) -> None:
        trainer = world.run(route)
        trainer.add_callback(Breaks(event))
        with pytest.raises(RuntimeError, match="the user's own bug"):
            trainer.train()
        assert hooks(trainer.model) == [0, 0, 0]

    @both_routes
    def test_and_the_next_run_is_whole(self, route: Route, world: World) -> None:
        trainer = world.run(route)
        breaks = Breaks("on_step_begin")
        trainer.add_callback(breaks)
        with pytest.raises(RuntimeError, match="the user's own bug"):
            trainer.train()
        trainer.remove_callback(breaks)
        trainer.train()
        assert first_log(trainer)["sasft_loss"] > 0

    def test_after_an_exception_in_the_loss(self, world: World) -> None:
        trainer = world.run(plain, dataset=world.dataset.remove_columns("language"))
        callback = SASFTCallback(world.features, suppress="zh", language_of=broken_language)
        trainer.add_callback(callback.set_trainer(trainer))
        with pytest.raises(RuntimeError, match="the user's own bug"):
            trainer.train()
        assert hooks(trainer.model) == [0, 0, 0]


class TestWithoutTraining:
    @both_routes
    def test_evaluation_alone(self, route: Route, world: World) -> None:
        expected = world.run(plain, eval_dataset=world.dataset).evaluate()["eval_loss"]
        trainer = world.run(route, eval_dataset=world.dataset)
        assert trainer.evaluate()["eval_loss"] == expected
        assert hooks(trainer.model) == [0, 0, 0]

    def test_prediction_alone(self, world: World) -> None:
        expected = world.run(plain, eval_dataset=world.dataset)
        trainer = world.run(with_callback, eval_dataset=world.dataset)
        ours, theirs = (one.predict(one.eval_dataset).metrics["test_loss"] for one in (trainer, expected))
        assert ours == theirs


@both_routes
def test_a_log_of_ones_own_is_left_alone(route: Route, world: World) -> None:
    """On one rank alone it would wait for the others for ever; on all, take the coming log's numbers away."""
    trainer = world.run(route)

    class Own(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            trainer.log({"loss": 1.0})

    trainer.add_callback(Own())
    trainer.train()
    own, trainers = trainer.state.log_history[:2]
    assert "sasft_loss" not in own
    assert trainers["sasft_loss"] > 0


def test_context_parallelism_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SFTTrainer, "get_cp_size", lambda self: 2)
    with pytest.raises(ValueError, match="cannot run under context or sequence parallelism"):
        world.run(with_callback)


def test_several_accelerators_in_one_process_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., SFTTrainer] = world.run
    trainer = make(plain)
    monkeypatch.setattr(type(trainer.args), "n_gpu", 2)
    with pytest.raises(ValueError, match="accelerate launch"):
        SASFTCallback(world.features, suppress="zh").set_trainer(trainer)
