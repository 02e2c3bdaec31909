"""Suppressed features and projected directions, against the same forward with the edit written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from steering_cases import feature_set, padded
from tiny_models import WIDTH, make
from torch import Tensor, nn

from sae_posttrain import FeatureSet
from sae_posttrain.residual import decoder_blocks
from sae_posttrain.steering import ablate, project_out, with_random_directions

LAYER = 2
Edit = Callable[[Tensor], Tensor]


def features() -> FeatureSet:
    torch.manual_seed(4)
    return feature_set()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make("Qwen3ForCausalLM").eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**padded(), use_cache=False).logits
    return found


def by_hand(model: nn.Module, edits: dict[int, Edit]) -> Tensor:
    """The logits with the output of each of these blocks replaced."""
    blocks = decoder_blocks(model)
    handles = [
        blocks[layer].register_forward_hook(lambda module, args, output, edit=edit: edit(output))
        for layer, edit in edits.items()
    ]
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


def suppressed(of: FeatureSet, strength: Tensor) -> dict[int, Edit]:
    def edit_of(encoder: Tensor, bias: Tensor, direction: Tensor) -> Edit:
        def edit(h: Tensor) -> Tensor:
            written = torch.zeros_like(h)
            for f in range(len(bias)):
                written += (h @ encoder[f] + bias[f]).clamp(min=0)[..., None] * direction[f]
            return h - strength * written

        return edit

    return {one.layer: edit_of(one.encoder, one.bias, one.direction) for one in of.layers}


def test_suppression_takes_out_what_the_features_write(model: nn.Module) -> None:
    chosen = features()
    with ablate(model, chosen):
        found = logits(model)
    torch.testing.assert_close(found, by_hand(model, suppressed(chosen, torch.tensor(1.0))))
    assert not torch.equal(found, logits(model)), "the features fire somewhere"


def test_each_row_has_its_own_strength_and_the_others_stay_as_they_were(model: nn.Module) -> None:
    strength = torch.tensor([2.0, 0.0, 0.5])
    with ablate(model, features(), strength=strength):
        found = logits(model)
    torch.testing.assert_close(found, by_hand(model, suppressed(features(), strength[:, None, None])))
    assert torch.equal(found[1], logits(model)[1])
    with ablate(model, features(), strength=0.0):
        assert torch.equal(logits(model), by_hand(model, {}))


def test_projection_leaves_nothing_along_the_direction(model: nn.Module) -> None:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    unit = direction / direction.norm()
    with project_out(model, {LAYER: 3 * direction}):
        handle = decoder_blocks(model)[LAYER].register_forward_hook(lambda module, args, output: seen.append(output))
        found = logits(model)
        handle.remove()
    torch.testing.assert_close(seen[0] @ unit, torch.zeros(seen[0].shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, by_hand(model, {LAYER: lambda h: h - (h @ unit)[..., None] * unit}))


def test_random_directions_have_the_lengths_of_the_features_and_fire_where_they_do() -> None:
    own, drawn = features(), with_random_directions(features(), seed=3)
    for one, other in zip(own.layers, drawn.layers, strict=True):
        torch.testing.assert_close(one.direction.norm(dim=-1), other.direction.norm(dim=-1))
        assert torch.equal(one.encoder, other.encoder)
        assert not torch.allclose(one.direction, other.direction)
    assert drawn.provenance.selection == "random directions"
    assert torch.equal(with_random_directions(own, seed=3).layers[0].direction, drawn.layers[0].direction)


def test_the_hooks_go_with_the_block_even_after_an_error(model: nn.Module) -> None:
    expected = logits(model)
    message = "strength has 2 entries, but a forward pass has 3 rows"
    with pytest.raises(ValueError, match=message), ablate(model, features(), strength=[1.0, 0.0]):
        logits(model)
    assert torch.equal(logits(model), expected)


def test_what_cannot_be_suppressed_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="strength must be one finite number"):
        ablate(model, features(), strength=float("nan")).__enter__()
    with pytest.raises(ValueError, match=r"direction of layer 1 has shape \(3,\) and length 1.73"):
        project_out(model, {1: torch.ones(3)}).__enter__()
    with pytest.raises(ValueError, match="length 0"):
        project_out(model, {1: torch.zeros(WIDTH)}).__enter__()
