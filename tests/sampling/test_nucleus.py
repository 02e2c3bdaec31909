"""Top-p without a sort against transformers' own, on logits of every shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from sae_posttrain.sampling import nucleus
from sae_posttrain.sampling.nucleus import Nucleus

VOCABULARY = 5000


def stock(temperature: Any, top_p: Any) -> Any:
    return LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])


def shapes() -> Iterator[Any]:
    """Peaked as a language model's, flat, with ties, with masked tokens, with one token far above."""
    generator = torch.Generator().manual_seed(0)

    def noise(scale: Any) -> Any:
        return scale * torch.randn(40, VOCABULARY, generator=generator)

    yield "peaked", noise(1.0) - 2 * torch.arange(1, VOCABULARY + 1).log()
    yield "model-like", noise(3.0)
    yield "flat", noise(0.01)
    yield "all equal", torch.zeros(3, VOCABULARY)
    yield "ties", noise(2.0).round()
    yield "bfloat16", noise(3.0).bfloat16().float()
    yield "masked", noise(3.0).masked_fill(noise(1.0) > 0.5, -torch.inf)
    yield "one", noise(1.0) + 50 * (torch.arange(VOCABULARY) == 7)


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.8, 0.95, 0.9999])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_what_is_kept_is_what_the_sort_keeps(temperature: Any, top_p: Any) -> None:
    for name, logits in shapes():
        before = logits.clone()
        found = Nucleus(temperature, top_p, largest=256)(torch.zeros(1), logits)
        expected = stock(temperature, top_p)(torch.zeros(1), before.clone())
        assert torch.equal(found, expected), name
        assert torch.equal(logits, before), name


def test_the_sort_is_asked_only_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    class Counted(TopPLogitsWarper):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            rows.append(len(scores))
            return super().__call__(input_ids, scores)

    monkeypatch.setattr(nucleus, "TopPLogitsWarper", Counted)
    asked = {}
    for name, logits in shapes():
        rows.clear()
        Nucleus(1.0, 0.8, largest=256)(torch.zeros(1), logits)
        asked[name] = sum(rows) / len(logits)
    assert asked["peaked"] < 0.1
    assert asked["one"] == 0
    assert asked["flat"] == asked["all equal"] == 1
