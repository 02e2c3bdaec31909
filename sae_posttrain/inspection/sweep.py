"""Try many changes of the residual at the token before a switch, and read each passage only once."""

# P passages with a switch, B of them in a batch, E edits, S sequence, V vocabulary, D model width

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..residual import evaluating, hook_residuals, inputs_device
from .trace import SwitchPassage


@torch.no_grad()
def sweep_at_switches(
    model: nn.Module,
    passages: Sequence[SwitchPassage],
    tokens_V: Tensor,
    edits: Sequence[Mapping[int, Tensor]],
    *,
    temperature: float = 1.0,
    batch_size: int = 4,
) -> Tensor:
    """Compute the probability of each switch under each of many edits of the residual at the token before it.

    At temperature 1, each edit gives the same as `probability_at_switches`, but the model reads the tokens before the
    edited one only once.

    Args:
        model: the model, which may be wrapped.
        passages: as `find_passages` returns them; those without a `place` are left out.
        tokens_V: `(V,)` mask of the tokens of the language, such as
            `token_scripts(tokenizer).mask({"Hani"}, begun=True, size=V)`.
        edits: each is a mapping from layer to the `(D,)` vector that is added to the residual; an empty one changes
            nothing.
        temperature: the temperature that the answers were sampled at; the logits are divided by it.
        batch_size: passages per forward pass. The last token is read `batch_size * len(edits)` times at once.

    Returns:
        `(P, E)` probabilities, in the order of the passages.

    Raises:
        ValueError: no passage has a switch, or there is no edit.

    Example:
        >>> plain, ablated = sweep_at_switches(model, passages, tokens, [{}, {16: -direction}]).mean(dim=0).tolist()

    Source: arXiv:2605.11887, section 7.2, equation 25.
    """
    heads = [list(one.ids[: one.place]) for one in passages if one.place]
    if not heads or not edits:
        raise ValueError(
            f"{len(heads)} of {len(passages)} passages have a switch, and there are {len(edits)} edits; give at least "
            "one of each."
        )
    device = inputs_device(model)
    deltas: dict[int, list[Tensor]] = {}
    for layer in sorted({layer for edit in edits for layer in edit}):
        width = next(len(edit[layer]) for edit in edits if layer in edit)
        deltas[layer] = [edit.get(layer, torch.zeros(width)).float().to(device) for edit in edits]
    delta_ED = {layer: torch.stack(one) for layer, one in deltas.items()}
    with evaluating(model):
        starts = range(0, len(heads), batch_size)
        logits = (_last_logits(model, heads[i : i + batch_size], delta_ED, len(edits)) for i in starts)
        found = []
        for logits_BEV in logits:
            probability_BEV = (logits_BEV.float() / temperature).softmax(dim=-1)
            found.append(probability_BEV[..., tokens_V.to(device)].sum(dim=-1).cpu())
    return torch.cat(found)


def _last_logits(model: nn.Module, heads: Sequence[list[int]], delta_ED: Mapping[int, Tensor], edits: int) -> Tensor:
    """`(B, E, V)` logits: the prefix is read once, and its cache is repeated for each edit of the last token."""
    length = max(map(len, heads))
    device = inputs_device(model)
    # Padded on the left, so that the last position of every row is the one that counts.
    ids_BS = torch.tensor([[0] * (length - len(ids)) + ids for ids in heads], device=device)
    mask_BS = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in heads], device=device)
    places_BS = (mask_BS.cumsum(dim=1) - 1).clamp(min=0)
    cache = None
    if length > 1:
        read = model(
            input_ids=ids_BS[:, :-1],
            attention_mask=mask_BS[:, :-1],
            position_ids=places_BS[:, :-1],
            use_cache=True,
            logits_to_keep=1,
        )
        cache = read.past_key_values
        cache.batch_repeat_interleave(edits)

    def add(layer: int, residual_NSD: Tensor) -> Tensor:  # N = B * E, the edits of a passage beside each other
        delta_N1D = delta_ED[layer].repeat(len(heads), 1)[:, None]
        return residual_NSD + delta_N1D.to(residual_NSD)

    handles = hook_residuals(model, delta_ED, add)
    try:
        output = model(
            input_ids=ids_BS[:, -1:].repeat_interleave(edits, dim=0),
            attention_mask=mask_BS.repeat_interleave(edits, dim=0),
            position_ids=places_BS[:, -1:].repeat_interleave(edits, dim=0),
            past_key_values=cache,
            use_cache=cache is not None,
        )
    finally:
        for handle in handles:
            handle.remove()
    logits_BEV: Tensor = output.logits[:, -1].unflatten(0, (len(heads), edits))
    return logits_BEV
