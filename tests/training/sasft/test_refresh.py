"""Baselines measured anew while training: the mean of what was seen, and how far it drifted."""

from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft import refresh
from sae_posttrain.training.sasft.segments import CODES

from .exactness import Row, answers, moved, relative_error
from .reference import residuals_of
from .routes import penalties, with_callback, with_trainer
from .world import LANGUAGES, LAYERS, Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


@pytest.fixture(autouse=True)
def few_tokens_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "MIN_TOKENS", 1)


def means_by_hand(world: World) -> dict[int, dict[str, torch.Tensor]]:
    """Mean pre-activations of the zh features by layer and language, over the labelled tokens of the dataset."""
    model, means = world.make_model(), {}
    _, examples = answers(world)
    for layer in world.features.select(["zh"]).layers:
        found: dict[str, list[torch.Tensor]] = {code: [] for code in LANGUAGES}
        for ids, labels, language in examples:
            residual_SD = residuals_of(model, model.model.layers, ids)[0][layer.layer][0].detach()
            found[language].append((residual_SD @ layer.encoder.T + layer.bias)[torch.tensor(labels) != -100])
        means[layer.layer] = {code: torch.cat(values).mean(0) for code, values in found.items()}
    return means


@pytest.mark.parametrize("accumulation", [1, 4])
@both_routes
def test_a_refreshed_baseline_is_the_mean_that_was_seen(route: Route, accumulation: int, world: World) -> None:
    dataset, _ = answers(world)
    settings = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    # The learning rate is zero: what is measured is the model that the means by hand are of.
    trainer = world.run(route, dataset=dataset, refresh_baselines=1, learning_rate=0.0, **settings)
    trainer.train()
    expected = means_by_hand(world)
    for penalty in penalties(trainer):
        for code in LANGUAGES:
            found_F = penalty.baseline_LF[CODES.index(code)]
            assert torch.allclose(found_F, expected[penalty.layer][code].detach(), atol=1e-5)
    for layer in world.features.select(["zh"]).layers:
        now = torch.cat([expected[layer.layer][code] for code in LANGUAGES])
        before = torch.cat([layer.baselines[code] for code in LANGUAGES])
        drift = 1 - float(torch.cosine_similarity(now, before, dim=0))
        assert trainer.state.log_history[0][f"sasft_drift_layer_{layer.layer}"] == pytest.approx(drift, abs=1e-5)


@both_routes
def test_it_is_off_by_default(route: Route, world: World) -> None:
    trainer = world.run(route, max_steps=2)
    start = [penalty.baseline_LF for penalty in penalties(trainer)]
    trainer.train()
    assert all(one.baseline_LF is other for one, other in zip(penalties(trainer), start, strict=True))
    assert not any(key.startswith("sasft_drift") for log in trainer.state.log_history for key in log)


def test_a_language_seldom_seen_keeps_its_baseline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, examples = answers(world)
    counts = dict.fromkeys(LANGUAGES, 0)
    for _, labels, language in examples:
        counts[language] += sum(label != -100 for label in labels)
    rare = min(counts, key=lambda code: counts[code])
    monkeypatch.setattr(refresh, "MIN_TOKENS", counts[rare] + 1)
    trainer = world.run(with_callback, dataset=dataset, refresh_baselines=1)
    trainer.train()
    for penalty, layer in zip(penalties(trainer), world.features.select(["zh"]).layers, strict=True):
        for code in LANGUAGES:
            assert torch.equal(penalty.baseline_LF[CODES.index(code)], layer.baselines[code]) == (code == rare)


def test_the_refresh_acts_from_the_next_step_on(world: World) -> None:
    """One step before the first refresh is the same with it; a second step is not."""
    few = {"learning_rate": 1e-2}  # small steps: at rate 1 the second would start anywhere
    one, other = (
        moved(world, with_callback, Row({**few, "max_steps": 1, "refresh_baselines": n}), 1.0) for n in (0, 1)
    )
    assert relative_error(one, other) == 0
    one, other = (
        moved(world, with_callback, Row({**few, "max_steps": 2, "refresh_baselines": n}), 1.0) for n in (0, 1)
    )
    assert relative_error(one, other) > 1e-3


def test_training_again_starts_from_the_file(world: World) -> None:
    trainer = world.run(with_callback, refresh_baselines=1, max_steps=2)
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            seen.append(penalties(trainer)[0].baseline_LF.clone())

    trainer.add_callback(Look())
    for _ in range(2):
        trainer.train()
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_two_layers_are_refreshed_each_by_its_own(world: World) -> None:
    trainer = world.run(with_callback, refresh_baselines=1)
    trainer.train()
    assert {f"sasft_drift_layer_{layer}" for layer in LAYERS} <= trainer.state.log_history[0].keys()
    first, second = (penalty.baseline_LF for penalty in penalties(trainer))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refresh_baselines": -1}, "refresh_baselines=-1"),
        ({"refresh_baselines": True}, "refresh_baselines=True"),
        ({"refresh_baselines": 10, "baseline": "zero"}, "has no effect with baseline"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict[str, Any], message: str, world: World) -> None:
    with pytest.raises(ValueError, match=message):
        SASFTCallback(world.features, suppress="zh", **changes)
