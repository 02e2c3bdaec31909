"""What the steering tests share: prompts, directions, and a decoding by hand to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tiny_models import BLOCKS, MODELS, WIDTH, token_ids
from torch import Tensor, nn

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.residual import decoder_blocks

GENERATING = [name for name in MODELS if name != "Qwen3Model"]
EXPERTS = [name for name in GENERATING if "Moe" in name]
DENSE = [name for name in GENERATING if name not in EXPERTS]
ROWS, STEPS, PROMPT = 3, 6, 7
STEERED = torch.tensor([True, False, True])
ALPHA = torch.tensor([2.0, 1.0, -3.0])
LAYERS = (0, 2)
GREEDY = {"max_new_tokens": STEPS, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}


def directions(layers: tuple[int, ...] = LAYERS) -> dict[int, Tensor]:
    """As long as a residual of these models is, so that steering changes tokens without drowning the rest."""
    generator = torch.Generator().manual_seed(5)
    return {layer: 0.3 * torch.randn(WIDTH, generator=generator) for layer in layers}


def padded() -> dict[str, Tensor]:
    """Three prompts, the second three shorter than the others."""
    ids, mask = token_ids(ROWS, PROMPT), torch.ones(ROWS, PROMPT, dtype=torch.long)
    ids[1, :3] = mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, inputs: Mapping[str, Tensor] | None = None, **settings: Any) -> Tensor:
    """New tokens `(B, STEPS)`: without an end, greedy unless told."""
    inputs = inputs or padded()
    return model.generate(**inputs, **GREEDY | settings)[:, inputs["input_ids"].shape[1] :]


def logits_and_tokens(model: Any, inputs: Mapping[str, Any] | None = None, **settings: Any) -> tuple[Tensor, Tensor]:
    """Of each new token, `(B, STEPS, V)` and `(B, STEPS)`."""
    given = {**(inputs or padded()), **GREEDY, **settings}
    made = model.generate(**given, return_dict_in_generate=True, output_logits=True)
    return torch.stack(made.logits, dim=1), made.sequences[:, -STEPS:]


@contextmanager
def replaced_blocks(model: nn.Module, deltas: Mapping[int, Callable[[int], Tensor]]) -> Iterator[None]:
    """Blocks that add by themselves: `deltas[layer](S)` to an output of S positions."""
    blocks = decoder_blocks(model)

    def replaced(forward: Callable[..., Tensor], delta_of: Callable[[int], Tensor]) -> Callable[..., Tensor]:
        def adding(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            return output + delta_of(output.shape[1])

        return adding

    try:
        for layer, delta_of in deltas.items():
            blocks[layer].forward = replaced(blocks[layer].forward, delta_of)
        yield
    finally:
        for layer in deltas:
            del blocks[layer].forward


@torch.no_grad()
def by_hand(model: Any, layers: tuple[int, ...] = LAYERS, first: int = PROMPT - 1) -> tuple[Tensor, Tensor]:
    """The oracle: greedy, a whole forward without cache for every token, steering from position `first` on."""

    def delta_of(direction_D: Tensor) -> Callable[[int], Tensor]:
        def delta(length: int) -> Tensor:
            positions_S = torch.arange(length) >= first
            return (ALPHA * STEERED)[:, None, None] * positions_S[:, None] * direction_D

        return delta

    inputs, logits = padded(), []
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with replaced_blocks(model, {layer: delta_of(direction) for layer, direction in directions(layers).items()}):
        for _ in range(STEPS):
            logits.append(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1])
            ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, mask.new_ones(ROWS, 1)], dim=1)
    return torch.stack(logits, dim=1), ids[:, PROMPT:]


def feature_set(d_model: int = WIDTH, num_layers: int = BLOCKS) -> FeatureSet:
    def layer(number: int) -> LayerFeatures:
        vectors = {name: torch.randn(2, d_model) for name in ("encoder", "direction")}
        numbers = {name: torch.rand(2) + 0.1 for name in ("bias", "score", "typical")}
        return LayerFeatures(number, (3, 5), ("zh", "ru"), **vectors, **numbers, baselines={}, activations={})

    provenance = Provenance("owner/tiny", d_model, num_layers, "owner/sae", {}, "", "random")
    return FeatureSet((layer(1), layer(2)), provenance)
