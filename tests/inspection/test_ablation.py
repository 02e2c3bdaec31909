"""The probability at a switch with a direction subtracted before it, against a forward of each passage by itself."""

from __future__ import annotations

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, make
from torch import Tensor, nn

from sae_posttrain.inspection.ablation import probability_at_switches
from sae_posttrain.inspection.sweep import sweep_at_switches
from sae_posttrain.inspection.trace import SwitchPassage
from sae_posttrain.residual import decoder_blocks

LAYER = BLOCKS - 1
PASSAGES = [SwitchPassage((3, 4, 5, 6, 7), 1, 4), SwitchPassage((8, 9, 10), 1, None), SwitchPassage((5, 4, 11), 1, 2)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make("Qwen3ForCausalLM")


@torch.no_grad()
def by_hand(model: nn.Module, ids: tuple[int, ...], delta: Tensor) -> float:
    """One passage alone, without padding, with `delta` added to the last residual of the block."""

    def add(module: nn.Module, args: object, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, -1] += delta
        return changed

    handle = decoder_blocks(model)[LAYER].register_forward_hook(add)
    try:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    return float(logits.softmax(-1)[mask(logits)].sum())


def mask(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-1]) < 15


def test_the_direction_is_subtracted_at_the_token_before_the_switch(model: nn.Module) -> None:
    tokens = torch.arange(model.config.vocab_size) < 15
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    plain = probability_at_switches(model, PASSAGES, tokens)
    found = probability_at_switches(model, PASSAGES, tokens, directions={LAYER: direction}, strength=2.0)
    for delta, values in ((0.0 * direction, plain), (-2.0 * direction, found)):
        expected = [by_hand(model, (3, 4, 5, 6), delta), by_hand(model, (5, 4), delta)]
        assert values == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(plain, abs=1e-3)
    unchanged = probability_at_switches(model, PASSAGES, tokens, directions={LAYER: direction}, strength=0.0)
    assert unchanged == pytest.approx(plain, abs=1e-6)


def test_passages_without_a_switch_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="None of the 1 passages has a switch"):
        probability_at_switches(model, PASSAGES[1:2], torch.ones(15, dtype=torch.bool))


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Gemma3ForCausalLM"])
def test_a_sweep_over_edits_gives_what_each_edit_gives_by_itself(architecture: str) -> None:
    model = make(architecture)
    tokens = torch.arange(model.config.get_text_config().vocab_size) < 15
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(WIDTH, generator=draw), torch.randn(WIDTH, generator=draw)
    short = SwitchPassage((9, 3), 1, 1)  # a prompt of one token: nothing is read before the edited token
    longer = SwitchPassage(tuple(range(3, 18)), 1, 13)  # than Gemma's sliding window
    passages = [*PASSAGES, short, longer]
    edits = [{}, {LAYER: one}, {0: other, LAYER: -2 * one}]
    expected = [
        probability_at_switches(model, passages, tokens, directions={layer: -d for layer, d in edit.items()})
        for edit in edits
    ]
    for batch_size in (1, 4):
        found = sweep_at_switches(model, passages, tokens, edits, batch_size=batch_size)
        assert found.T.tolist() == [pytest.approx(one, abs=1e-5) for one in expected]
    assert expected[2] != pytest.approx(expected[0], abs=1e-3)
    with pytest.raises(ValueError, match="2 of 3 passages have a switch, and there are 0 edits"):
        sweep_at_switches(model, PASSAGES, tokens, [])
