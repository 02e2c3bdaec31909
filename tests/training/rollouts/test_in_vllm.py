"""`steer_in_vllm`: one generate call makes the steered and the ordinary rollouts, in both of TRL's modes.

TRL's own code runs. vLLM is a stand-in; tests/steering/test_vllm_engine.py runs the plugin inside vLLM itself.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_posttrain import FeatureSet
from sae_posttrain.metrics.loops import LoopSettings, find_loop
from sae_posttrain.steering.vllm_plugin import ALPHA, FEATURES, features_id
from sae_posttrain.training.rollouts import in_vllm, steered_rollout_func
from sae_posttrain.training.rollouts.in_vllm import InVLLM, detection, differ, given_to_vllm, over_http
from sae_posttrain.training.rollouts.source import Source

from .engine import Parameters, cut, with_engine
from .world import GROUP, LENGTH, LOOPING, features, plain, steered, tokenizer

BOTH = pytest.mark.parametrize("mode", ["colocate", "server"])
TWO_GROUPS = {"per_device_train_batch_size": 2 * GROUP}
FIRST = [0, GROUP]


@pytest.fixture(autouse=True)
def parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is not installed."""
    from trl.generation import vllm_generation

    known = set(Parameters.__annotations__)
    make = lambda **given: Parameters(**{name: value for name, value in given.items() if name in known})  # noqa: E731
    monkeypatch.setattr(vllm_generation, "SamplingParams", make, raising=False)
    monkeypatch.setattr(in_vllm, "repetition_detection", lambda rule: rule)


def completions(output: dict[str, Tensor]) -> list[list[int]]:
    pairs = zip(output["completion_ids"], output["completion_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def looping() -> int:
    return int(tokenizer().convert_tokens_to_ids(LOOPING))


@BOTH
def test_one_call_steers_the_first_row_of_each_group(mode: str, tmp_path: Path) -> None:
    watched, owner = with_engine(steered(tmp_path, steer_in_vllm=True, **TWO_GROUPS), mode, features())
    made = completions(watched.once())
    free, _ = with_engine(plain(tmp_path, **TWO_GROUPS), mode, None)
    ordinary = completions(free.once())
    for row in range(2 * GROUP):
        assert made[row] == ([looping()] * LENGTH if row in FIRST else ordinary[row])
    probes = 2 if mode == "server" else 1
    assert owner.calls - probes == (2 if mode == "server" else 1)  # the two requests to a server run side by side
    assert (watched.generated[0]["steered_tokens"] > 0).tolist() == [row in FIRST for row in range(2 * GROUP)]
    watched.once()
    assert owner.calls == probes + 2 * (2 if mode == "server" else 1)  # whether vLLM steers is asked once


@BOTH
def test_log_probabilities_of_steered_rows_are_missing_and_those_of_others_kept(mode: str, tmp_path: Path) -> None:
    watched, _ = with_engine(steered(tmp_path, steer_in_vllm=True), mode, features())
    sampled = watched.once()["sampling_per_token_logps"]
    assert sampled[0].isnan().all()
    assert not sampled[1:].isnan().any()


@BOTH
@pytest.mark.parametrize("held", ["nothing", "other features"])
def test_without_these_features_in_vllm_transformers_steers_and_says_so_once(
    mode: str, held: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = FeatureSet(features().layers, features().provenance, alpha=1.0)
    watched, _ = with_engine(steered(tmp_path, steer_in_vllm=True), mode, None if held == "nothing" else other)
    with caplog.at_level(logging.WARNING, logger="sae_posttrain"):
        first, again = completions(watched.once()), completions(watched.once())
    assert first[0] == again[0] == [looping()] * LENGTH
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert f"{FEATURES}=FILE" in caplog.records[0].message


@BOTH
def test_a_steered_rollout_ends_in_its_loop(mode: str, tmp_path: Path) -> None:
    told: list[list[bool]] = []

    def reward(completions: list[Any], stopped: list[bool], **kwargs: Any) -> list[float]:
        told.append(stopped)
        return [0.0] * len(completions)

    changes = {"steered_stop_after": 10, "max_completion_length": 40, "reward_funcs": reward}
    watched, _ = with_engine(steered(tmp_path, steer_in_vllm=True, **changes), mode, features())
    made = completions(watched.once())
    assert 10 <= len(made[0]) <= 20
    assert told[0][0]
    whole, _ = with_engine(plain(tmp_path, max_completion_length=40), mode, None)
    assert made[1:] == completions(whole.once())[1:]


@BOTH
@pytest.mark.parametrize("control", ["greedy_rollout", "extra_plain"])
def test_controls_without_features_need_no_plugin(mode: str, control: str, tmp_path: Path) -> None:
    changes = {"steering_control": control, "features": None, "steering_alpha": None, "steered_stop_after": LENGTH}
    watched, owner = with_engine(steered(tmp_path, steer_in_vllm=True, **changes), mode, None)
    watched.once()
    asked = [request for _, request in owner.engine.requests]
    assert len(asked) == GROUP  # no question whether vLLM steers
    assert (asked[0]["temperature"] == 0.0) == (control == "greedy_rollout") or mode == "server"
    assert sum(one.get("temperature") == 0.0 for one in asked) == (control == "greedy_rollout")
    assert sum(one.get("repetition_detection") is not None for one in asked) == 1
    assert not any((one.get("extra_args") or {}).get(ALPHA) for one in asked)


def test_random_directions_reach_vllm_as_features_of_their_own(tmp_path: Path) -> None:
    trainer = steered(tmp_path, steer_in_vllm=True, steering_control="random_direction")
    assert trainer.in_vllm.identity not in ("", features_id(features()))


def test_in_trls_own_trainer(tmp_path: Path) -> None:
    hook = steered_rollout_func(features(), alpha=30.0, in_vllm=True)
    with pytest.warns(UserWarning, match="experimental"):
        trainer = plain(tmp_path, rollout_func=hook)
    watched, _ = with_engine(trainer, "server", features())
    assert completions(watched.once())[0] == [looping()] * LENGTH


def test_groups_without_a_steered_rollout_are_requests_of_whole_groups(tmp_path: Path) -> None:
    """`steer_probability` leaves some groups out, so their sizes differ."""
    changes = {"per_device_train_batch_size": 6 * GROUP, "steer_probability": 0.5}
    watched, owner = with_engine(steered(tmp_path, steer_in_vllm=True, **changes), "server", features())
    made = watched.once()
    steered_rows = (made["steered_tokens"] > 0).tolist()
    assert 0 < sum(steered_rows) < 6
    free, _ = with_engine(plain(tmp_path, per_device_train_batch_size=6 * GROUP), "server", None)
    ordinary = completions(free.once())
    for row, found in enumerate(completions(made)):
        assert found == ([looping()] * LENGTH if steered_rows[row] else ordinary[row])
    assert owner.calls == 2 + 3


@pytest.mark.parametrize("period", range(1, 30))
@pytest.mark.parametrize(("tokens", "repeats"), [(50, 4), (10, 4), (64, 8)])
def test_vllm_ends_every_loop_between_its_length_and_twice_that(period: int, tokens: int, repeats: int) -> None:
    loops = LoopSettings(repeats, min_tokens=tokens)
    ids = [101, 102, 103] + [number % period for number in range(400)]
    length = len(cut(ids, detection(loops))) - 3
    wanted = max(tokens, repeats * period)
    assert wanted <= length <= max(2 * tokens + repeats, wanted)
    assert find_loop(ids[: length + 3], loops) is not None


def test_varied_text_is_not_ended() -> None:
    ids = torch.randint(0, 20, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    assert cut(ids, detection(LoopSettings(min_tokens=50))) == ids


def test_a_rollout_that_loops_and_then_ends_itself_was_not_ended() -> None:
    source = Source({}, 0.0, stop_at=LoopSettings(min_tokens=20))
    looped, end = [5, 6] * 15, 9
    rows = [looped, [*looped, 7, 8, end], list(range(30)), []]
    assert InVLLM(source, None).ended(rows, range(4), limit=100, final=[end]) == {0}
    assert InVLLM(source, None).ended(rows, range(4), limit=len(looped), final=[end]) == frozenset()


def test_requests_over_http_keep_what_the_user_set() -> None:
    given = {"vllm_xargs": {"mine": 1}, "seed": 3}
    body = over_http(given, {"extra_args": {ALPHA: 2.0}, "temperature": 0.0}, from_features=False)
    assert body == {"vllm_xargs": {"mine": 1, ALPHA: 2.0}, "seed": 3, "temperature": 0.0}
    body = over_http({}, {"extra_args": {ALPHA: 2.0}}, from_features=True)
    assert body == {"extra_args": {ALPHA: 2.0}}
    assert over_http(given, {}, from_features=False) == given


def test_rounding_is_not_taken_for_steering() -> None:
    assert not differ({5: -0.1, 6: -2.5}, {6: -2.4, 5: -0.15})
    assert differ({5: -0.1, 6: -2.5}, {7: -0.1, 8: -2.5})
    assert differ({5: -0.1}, {5: -9.0})
    assert differ({5: -0.1}, {5: float("nan")})
    assert differ({5: -0.1, 6: -2.5}, {5: -0.1, 7: -2.5})  # the likeliest token alone may stay by chance
    assert not differ({5: -0.1, 6: None}, {5: -0.1})


def test_the_vllm_that_starts_inside_the_block_finds_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FEATURES, "before")
    with given_to_vllm(features()):
        assert features_id(FeatureSet.load(os.environ[FEATURES])) == features_id(features())
    assert os.environ[FEATURES] == "before"
    with given_to_vllm(None):
        assert os.environ[FEATURES] == "before"
