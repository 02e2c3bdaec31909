"""The SASFT gradient by hand: (sum NLL + weight * auxiliary) / num_items, one example at a time, no trainer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sae_posttrain import FeatureSet


def auxiliary(
    residuals: Mapping[int, Tensor],
    labels: Tensor,
    language: str | Sequence[str],
    features: FeatureSet,
    suppress: Sequence[str],
) -> Tensor:
    """One example's L_reduce, summed over its labelled tokens; plain loops over features and languages."""
    languages = [language] * len(labels) if isinstance(language, str) else language
    total = torch.zeros(())
    for layer in features.layers:
        for row, target in enumerate(layer.targets):
            pre = residuals[layer.layer][0] @ layer.encoder[row] + layer.bias[row]
            for code in sorted({*languages} - {target}) if target in suppress else ():
                chosen = (labels != -100) & torch.tensor([one == code for one in languages])
                excess = (pre - layer.baselines[code][row]).clamp(min=0)
                total = total + excess[chosen].sum() / layer.targets.count(target)
    return total


def residuals_of(model: Any, blocks: Sequence[nn.Module], ids: list[int]) -> tuple[dict[int, Tensor], Tensor]:
    """What leaves each block, `(1, S, D)`, and the logits `(S, V)` of one example."""
    residuals: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda module, args, output: residuals.update({layer: output})

    handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    return residuals, logits


def gradients(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    examples: Sequence[tuple[list[int], list[int], str | list[str]]],
    loss_of: Callable[[Mapping[int, Tensor], Tensor, str | list[str]], Tensor],
    weight: float,
) -> dict[str, Tensor]:
    """Gradient of every trainable parameter; an example is (input ids, labels, language)."""
    model.train()
    num_items = sum(label != -100 for _, labels, _ in examples for label in labels[1:])
    total = torch.zeros(())
    for ids, labels, language in examples:
        residuals, logits = residuals_of(model, blocks, ids)
        target = torch.tensor(labels)
        total = total + cross_entropy(logits[:-1], target[1:], ignore_index=-100, reduction="sum")
        total = total + weight * loss_of(residuals, target, language)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    values = torch.autograd.grad(total / num_items, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, values, strict=True)}
