"""Requests in vLLM that choose some of a feature set's layers and features, on a stand-in for its workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steering_cases import feature_set
from tiny_models import WIDTH, token_ids

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures
from sae_posttrain.steering import typical_contributions
from sae_posttrain.steering.arguments import ALPHA, Steering
from sae_posttrain.steering.vllm_plugin import directions_of

from .test_vllm_plugin import NEW, RUNNERS, expected
from .vllm_worker import Request, steered_runner, step


def several(targets: tuple[str, ...] = ("loop", "loop", "other", "loop")) -> FeatureSet:
    """Two layers, each with three features of one target and one of another; the second layer has fewer."""
    torch.manual_seed(4)

    def layer(number: int, size: int) -> LayerFeatures:
        vectors = {name: torch.randn(size, WIDTH) for name in ("encoder", "direction")}
        numbers = {name: torch.rand(size) + 0.1 for name in ("bias", "score", "typical")}
        ids = tuple(range(size))
        return LayerFeatures(number, ids, targets[:size], **vectors, **numbers, baselines={}, activations={})

    whole = feature_set()
    return FeatureSet((layer(1, 4), layer(2, 2)), whole.provenance)


@RUNNERS
def test_each_request_may_choose_layers_and_features(kind: Any) -> None:
    """A calibration tries layers and numbers of features one by one, and a server is started only once."""
    features = several()
    runner = steered_runner(kind, features)
    prompts = [row.tolist() for row in token_ids(6, 4)]
    chosen: list[dict[str, Any]] = [
        {"layers": (1,)},
        {"top": 1},
        {"layers": (1, 2), "top": 2},
        {"top": 9},
        {},
    ]
    for place, one in enumerate(chosen):
        layers = one.get("layers") and ",".join(map(str, one["layers"]))
        runner.requests[f"{place}"] = Request(prompts[place], 3.0, layers=layers, top=one.get("top"))
    runner.requests["plain"] = Request(prompts[5])
    runner.requests["elsewhere"] = Request(prompts[5], 3.0, layers="0")
    names = list(runner.requests)
    for start in (0, 4):
        some = names[start : start + 4]
        step(runner, dict.fromkeys(some, 4), new=some)
    for _ in range(NEW - 1):
        step(runner, dict.fromkeys(names, 1))
    for place, one in enumerate(chosen):
        wanted = expected(features.select(layers=one.get("layers"), top=one.get("top")), prompts[place], 3.0)
        assert runner.requests[f"{place}"].made == wanted
    plain = expected(features, prompts[5], None)
    assert runner.requests["plain"].made == runner.requests["elsewhere"].made == plain


def test_the_last_choice_is_bit_for_bit_the_whole_set() -> None:
    features = several()
    found, whole = directions_of(features), typical_contributions(features)
    assert {layer: len(direction_ND) for layer, direction_ND in found.items()} == {1: 3, 2: 3}
    for layer, direction_ND in found.items():
        assert torch.equal(direction_ND[-1], whole[layer])
        first = typical_contributions(features.select(top=1))[layer]
        assert torch.equal(direction_ND[0], first)
        assert not torch.equal(first, whole[layer])


def test_what_a_request_says_is_read_as_it_was_written() -> None:
    for steering in (Steering(2.0), Steering(-1.0, (3, 11), 2, "abc"), Steering(0.5, (0,))):
        assert Steering.of(steering.extra_args()) == steering
    assert Steering.of(None) == Steering()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steering_layers": "1;2"}, "numbers of decoder blocks"),
        ({"steering_layers": [1]}, "numbers of decoder blocks"),
        ({"steering_top": 0}, "at least 1"),
        ({"steering_top": "2"}, "at least 1"),
    ],
)
def test_a_choice_that_cannot_be_read_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steering.of({ALPHA: 1.0, **given})
