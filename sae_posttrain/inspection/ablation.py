"""Test whether a feature causes a switch of language: subtract its direction just before the switch."""

# B batch, S sequence, V vocabulary, D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..residual import evaluating, inputs_device
from ..steering import steer
from .trace import SwitchPassage


@torch.no_grad()
def probability_at_switches(
    model: nn.Module,
    passages: Sequence[SwitchPassage],
    tokens_V: Tensor,
    *,
    directions: Mapping[int, Tensor] | None = None,
    strength: float = 1.0,
    batch_size: int = 8,
) -> list[float]:
    """Compute the probability of each switch, with a direction subtracted at the token before it.

    The model reads each passage up to the token before the first foreign word. At this token only, the residual x of
    each layer becomes `x - strength * d`.

    Args:
        model: the model, which may be wrapped.
        passages: as `find_passages` returns them; those without a switch are left out.
        tokens_V: `(V,)` mask of the tokens of the language, such as
            `token_scripts(tokenizer).mask({"Hani"}, begun=True, size=V)`.
        directions: layer → `(D,)` direction, of any length. Default: nothing is subtracted.
        strength: lambda of the equation; 0 changes nothing.
        batch_size: passages per forward pass.

    Returns:
        For each switch the probability that the next token is one of `tokens_V`, in the order of the passages.

    Raises:
        ValueError: no passage has a switch.

    Example:
        >>> before = probability_at_switches(model, passages, tokens)
        >>> after = probability_at_switches(model, passages, tokens, directions={16: direction}, strength=100.0)

    Source: arXiv:2605.11887, section 7.2, equation 25.
    """
    heads = [list(one.ids[: one.place]) for one in passages if one.place]
    if not heads:
        raise ValueError(
            f"None of the {len(passages)} passages has a switch; give the passages that find_passages returns."
        )
    found: list[float] = []
    with evaluating(model):
        for start in range(0, len(heads), batch_size):
            found += _last_probabilities(model, heads[start : start + batch_size], tokens_V, directions, strength)
    return found


def _last_probabilities(
    model: nn.Module,
    heads: Sequence[list[int]],
    tokens_V: Tensor,
    directions: Mapping[int, Tensor] | None,
    strength: float,
) -> list[float]:
    """For each row of token ids, the probability that the next token is one of `tokens_V`."""
    length = max(map(len, heads))
    device = inputs_device(model)
    # Padded on the left, so that the last position of every row is the one that counts.
    ids_BS = torch.tensor([[0] * (length - len(ids)) + ids for ids in heads], device=device)
    mask_BS = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in heads], device=device)
    places_BS = (mask_BS.cumsum(dim=1) - 1).clamp(min=0)
    last_BS = torch.zeros_like(mask_BS, dtype=torch.bool)
    last_BS[:, -1] = True
    edit = nullcontext() if not directions else steer(model, directions, alpha=-strength, positions=last_BS)
    with edit:
        output = model(
            input_ids=ids_BS, attention_mask=mask_BS, position_ids=places_BS, use_cache=False, logits_to_keep=1
        )
    probability_BV = output.logits[:, -1].float().softmax(dim=-1)
    found: list[float] = probability_BV[:, tokens_V.to(probability_BV.device)].sum(dim=-1).tolist()
    return found
