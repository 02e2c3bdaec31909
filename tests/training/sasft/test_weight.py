"""A weight that finds itself: its estimate of the cost, where it goes, and that every way to train agrees on it."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from trl import SFTTrainer

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft import weight as module
from sae_posttrain.training.sasft.weight import AutoWeight, parse_weight

from .exactness import record
from .ranks import found_weights
from .routes import with_callback, with_trainer
from .world import Route, World

LOSS, BUDGET = 3.6, 0.01
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def hyperbola(start: float, half: float) -> Callable[[float], float]:
    """A penalty that falls to one half at the weight `half`."""
    return lambda weight: start / (1 + weight / half)


def cost_by_hand(auxiliary: Callable[[float], float], weight: float, parts: int = 20_000) -> float:
    """The integral of the penalty over the weight, less what is left of it, as a share of the loss."""
    width = weight / parts
    integral = sum(auxiliary((part + 0.5) * width) * width for part in range(parts))
    return (integral - weight * auxiliary(weight)) / LOSS


def course(auxiliary: Callable[[float], float], steps: int, noise: float = 0.0) -> list[AutoWeight]:
    """A run in which the penalty follows the weight at once, but for the noise of its batches."""
    random = Random(0)
    states = [AutoWeight(BUDGET, steps)]
    for _ in range(steps):
        value = auxiliary(states[-1].weight) * math.exp(random.gauss(-noise * noise / 2, noise))
        states.append(states[-1].after(LOSS, value))
    return states


class TestTheWeight:
    @pytest.mark.parametrize(("start", "half"), [(0.21, 0.08), (4e-4, 60.0)], ids=["features", "token mass"])
    @pytest.mark.parametrize("noise", [0.0, 0.5])
    def test_it_spends_the_budget(self, start: float, half: float, noise: float) -> None:
        penalty = hyperbola(start, half)
        last = course(penalty, 1000, noise)[-1]
        spent = cost_by_hand(penalty, last.weight)
        assert spent == pytest.approx(BUDGET, rel=0.05 if noise == 0 else 0.3)
        assert last.cost == pytest.approx(spent, rel=0.05 if noise == 0 else 0.4)

    def test_it_does_not_depend_on_the_units_of_the_penalty(self) -> None:
        ones = course(hyperbola(0.2, 0.1), 60)
        thousands = course(hyperbola(200.0, 1e-4), 60)
        assert [one.weight for one in ones] == pytest.approx([1e3 * one.weight for one in thousands])

    def test_it_falls_when_the_cost_is_above_the_budget(self) -> None:
        state = AutoWeight(BUDGET, 100, weight=10.0, start=0.2, auxiliary=0.05, loss=LOSS, seen=50)
        assert state.cost > BUDGET
        assert state.after(LOSS, 0.05).weight < 10.0

    def test_the_first_steps_are_measured_with_weight_zero(self) -> None:
        weights = [state.weight for state in course(hyperbola(0.2, 0.1), 60)]
        assert weights[:3] == [0.0, 0.0, 0.0]
        assert weights[3] == pytest.approx(BUDGET * LOSS / 0.2), "then the term is the budget's share of the loss"

    def test_measuring_goes_on_until_something_was_penalised(self) -> None:
        state = AutoWeight(BUDGET, 60)
        for value in (0.0, 0.0, 0.0, 0.0):
            state = state.after(LOSS, value)
            assert state.weight == 0.0
        assert state.after(LOSS, 0.5).weight == pytest.approx(BUDGET * LOSS / 0.1)

    def test_a_penalty_that_is_gone_raises_it_no_further(self) -> None:
        weights = [state.weight for state in course(lambda weight: 0.2 if weight == 0 else 0.0, 400)]
        assert max(weights) < 2.0 * BUDGET * LOSS / 0.2 * module.AT_START
        assert weights[-1] == weights[-100]

    @pytest.mark.parametrize("penalty", [lambda weight: 0.2, lambda weight: 0.2 + 0.1 * weight])
    def test_a_penalty_that_does_not_yield_never_takes_over(self, penalty: Callable[[float], float]) -> None:
        for state in course(penalty, 400):
            # The mean lags behind a penalty that rises.
            assert state.weight * penalty(state.weight) <= 1.1 * module.NOW * BUDGET * LOSS

    def test_a_broken_step_changes_nothing(self) -> None:
        state = course(hyperbola(0.2, 0.1), 30)[-1]
        assert state.after(math.nan, 0.1) == state
        assert state.after(LOSS, math.inf) == state

    def test_what_a_checkpoint_keeps_is_all_of_it(self) -> None:
        state = course(hyperbola(0.2, 0.1), 30)[-1]
        assert AutoWeight(**state.state()) == state


@pytest.mark.parametrize(("given", "meant"), [("auto", "auto"), ("5e-4", 5e-4), (0.5, 0.5), ("0", 0.0)])
def test_weights_as_text(given: Any, meant: Any) -> None:
    assert parse_weight("sasft_weight", given) == meant


@pytest.mark.parametrize("given", ["lots", None, [1.0], True])
def test_what_is_no_weight(given: Any) -> None:
    with pytest.raises(ValueError, match=r"sasft_weight=.*: expected a number of at least 0, or auto"):
        parse_weight("sasft_weight", given)


def weights_of(trainer: SFTTrainer) -> list[float]:
    return [log["sasft_weight"] for log in trainer.state.log_history if "sasft_weight" in log]


def run(world: World, route: Route, **settings: Any) -> SFTTrainer:
    trainer = world.run(route, weight="auto", **{"learning_rate": 0.05, "max_steps": 6, **settings})
    trainer.train()
    return trainer


class TestInTraining:
    @both_routes
    def test_the_weight_of_a_step_is_what_the_steps_before_say(self, route: Route, world: World) -> None:
        trainer = run(world, route)
        state, expected = AutoWeight(BUDGET, 6), []
        for log in trainer.state.log_history[:6]:
            expected.append(state.weight)
            # The trainer logs its loss with the weighted term in it.
            own = log["loss"] - state.weight * log["sasft_loss"]
            state = state.after(own, log["sasft_loss"])
            assert log["sasft_cost"] == pytest.approx(state.cost, rel=1e-3, abs=1e-9)
        assert weights_of(trainer) == pytest.approx(expected, rel=1e-3)
        assert expected[-1] > expected[3] > 0

    @both_routes
    def test_accumulation_follows_one_batch(self, route: Route, world: World) -> None:
        whole = found_weights(world, route)
        parts = found_weights(world, route, per_device_train_batch_size=2, gradient_accumulation_steps=4)
        for term, weights in whole.items():
            error = max(abs(a - b) / max(a, 1e-9) for a, b in zip(weights, parts[term], strict=True))
            record("weight auto, accumulation of 4: weights of 6 steps", route, error, term)
            assert weights[-1] > weights[3] > 0
            assert error <= 1e-5, term

    @pytest.mark.parametrize(("steps", "told"), [(1, True), (3, True), (4, False)])
    def test_a_run_too_short_to_find_a_weight_is_told(
        self, steps: int, told: bool, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        trainer = run(world, with_trainer, max_steps=steps)
        expected = f"takes 3 steps, during which its weight is 0. Only {steps} steps are left"
        assert any(expected in message for message in caplog.messages) == told
        assert (weights_of(trainer)[-1] > 0) != told

    def test_two_terms_share_the_budget(self, world: World) -> None:
        both = found_weights(world, with_trainer)["features"]
        alone = weights_of(run(world, with_trainer))
        assert both[3] == pytest.approx(alone[3] / 2)

    def test_a_compiled_model_follows_an_eager_one(self, world: World) -> None:
        torch._dynamo.reset()
        compiled = run(world, with_trainer, torch_compile=True, torch_compile_backend="eager")
        assert weights_of(compiled) == pytest.approx(weights_of(run(world, with_trainer)), rel=1e-5)

    def test_a_fixed_weight_is_not_logged(self, world: World) -> None:
        trainer = world.run(with_trainer)
        trainer.train()
        assert not weights_of(trainer)

    @both_routes
    def test_training_again_starts_anew(self, route: Route, world: World) -> None:
        trainer = world.run(route, weight="auto", learning_rate=0.0, max_steps=5)
        trainer.train()
        first = weights_of(trainer)
        trainer.train()
        assert weights_of(trainer)[-5:] == pytest.approx(first)

    @pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, "1%", True])
    def test_what_is_no_budget(self, budget: Any, world: World) -> None:
        with pytest.raises(ValueError, match=r"loss_budget=.*: expected a share of the cross-entropy"):
            SASFTCallback(world.features, "zh", "auto", loss_budget=budget)
