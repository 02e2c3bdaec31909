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


def token_auxiliary(
    logits: Tensor,
    labels: Tensor,
    language: str | Sequence[str],
    tokens: Mapping[str, Sequence[int]],
    suppress: Sequence[str],
) -> Tensor:
    """One example's unlikelihood of each suppressed language's tokens, from all logits; plain loops over positions."""
    languages = [language] * len(labels) if isinstance(language, str) else language
    total = torch.zeros(())
    for target in suppress:
        for place in range(len(labels) - 1):
            label, code = int(labels[place + 1]), languages[place + 1]
            if label != -100 and code != target and label not in tokens[target]:
                mass = logits[place].softmax(-1)[list(tokens[target])].sum()
                total = total - (1 - mass).log()
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
    loss_of: Callable[[Mapping[int, Tensor], Tensor, Tensor, str | list[str]], Tensor],
    counts_first: bool = False,
) -> dict[str, Tensor]:
    """Gradient of every trainable parameter; an example is (input ids, labels, language).

    `loss_of` is the weighted auxiliary loss from the residuals, the logits, the labels and the language.
    """
    model.train()
    num_items = sum(label != -100 for _, labels, _ in examples for label in labels[1:])
    num_items += len(examples) if counts_first else 0
    total = torch.zeros(())
    for ids, labels, language in examples:
        residuals, logits = residuals_of(model, blocks, ids)
        target = torch.tensor(labels)
        total = total + cross_entropy(logits[:-1], target[1:], ignore_index=-100, reduction="sum")
        total = total + loss_of(residuals, logits, target, language)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    values = torch.autograd.grad(total / num_items, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, values, strict=True)}
