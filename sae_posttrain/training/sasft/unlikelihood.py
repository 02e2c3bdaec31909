"""Unlikelihood of a set of tokens, computed from hidden states with the logits of only a few positions at a time.

The loss is `−log(1 − m)`, where m is the probability of the set in the next-token distribution. It is the unlikelihood
loss of arXiv:1908.04319 for a set instead of one token. Let s be the sum of exp(logit) over the set and c the sum over
all other tokens. Then m = s / (s + c), and the loss is log(1 + s / c), which is accurate for small and for large m.
"""

# B batch, S sequence, D model width, N penalised positions, V vocabulary, K token tables, T suppressed languages

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .head import LogitTransform, plain, whole

TILE = {"cpu": 1 << 24}
"""Number of logits in memory at once, by device type: 64 MB in float32. With fewer, the head's weight is read more
often."""
TILE_ELSEWHERE = 1 << 26


@dataclass(frozen=True, eq=False)
class Positions:
    """The penalised positions.

    Args:
        place_N: index into the flattened `(B · S)` hidden states.
        table_NT: for each position and suppressed language, the row of the token tables.
        weight_NT: factor of each position and suppressed language; 0 if the language is not penalised there.
    """

    place_N: Tensor
    table_NT: Tensor
    weight_NT: Tensor

    def to(self, device: torch.device) -> Positions:
        return Positions(*(one.to(device) for one in (self.place_N, self.table_NT, self.weight_NT)))


def token_unlikelihood(
    hidden_BSD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    positions: Positions,
    member_KV: Tensor,
    transform: LogitTransform,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the summed loss from the hidden states on their way to the head.

    Args:
        hidden_BSD: hidden states after the final norm.
        weight_VD, bias_V: weight and bias of the head.
        positions: the penalised positions with their tables.
        member_KV: membership of each token in the set of each table, 0 to 1.
        transform: the function from the head's output to logits.

    Returns:
        The hidden states that must replace the given ones; the weighted sum of the loss over positions and languages;
        and the probability of the set, `(N, T)`, without a gradient.
    """
    kind = hidden_BSD.device.type
    # The product has the dtype of the trainer's own head. Everything else is float32.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_BSD.dtype
    with whole(weight_VD, bias_V), torch.autocast(kind, enabled=False):
        head = _Pass(plain(weight_VD), plain(bias_V), positions, member_KV, transform, dtype)
        if torch.is_grad_enabled():
            found = _Unlikelihood.apply(hidden_BSD, head.weight_VD, head.bias_V, head)  # type: ignore[no-untyped-call]
            passed_BSD, loss, mass_NT = found
            return passed_BSD, loss, mass_NT
        loss, mass_NT, *_ = head.forward(hidden_BSD, with_gradient=False)
    return hidden_BSD, loss, mass_NT


class _Unlikelihood(torch.autograd.Function):
    """The loss as a function that passes the hidden states through unchanged.

    Therefore its backward runs after the head's own backward. The weight that FSDP2 gathers for the head is still
    there, and no second gradient of the size of the hidden states is kept.

    The gradient of the hidden states is computed in the forward, from the logits that are in memory. The gradient of
    the head's weight needs as much memory as the weight, so it is computed in the backward. If all positions fit into
    one tile, that tile is kept for it. Otherwise the logits are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_BSD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, head: _Pass
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        loss, mass_NT, grad_ND, sums = head.forward(hidden_BSD, with_gradient=True)
        ctx.mark_non_differentiable(mass_NT)
        ctx.place_N, ctx.shape = head.positions.place_N, hidden_BSD.shape
        none = grad_ND.new_empty(0)
        kept = [grad_ND.to(hidden_BSD.dtype), none, none, none, none, none]
        # Save the weight only if it is needed: otherwise a gathered copy of a frozen weight would stay in memory.
        ctx.head = head if any(ctx.needs_input_grad[1:3]) else None
        if ctx.head is not None:
            slope_NV = sums.slope_NV if sums.slope_NV is not None else none
            kept[1:] = [head.pick(hidden_BSD), sums.log_total_N, sums.set_NK, sums.rest_NK, slope_NV]
        ctx.save_for_backward(*kept)  # attributes of ctx would stay until the whole backward ends
        return hidden_BSD.view_as(hidden_BSD), loss, mass_NT

    @staticmethod
    def backward(ctx: Any, grad_BSD: Tensor | None, grad_loss: Tensor | None, _: Any) -> tuple[Any, ...]:
        grad_ND, hidden_ND, log_total_N, set_NK, rest_NK, slope_NV = ctx.saved_tensors
        grad_weight_VD = grad_bias_V = None
        if grad_BSD is None:
            grad_BSD = torch.zeros(ctx.shape, dtype=grad_ND.dtype, device=grad_ND.device)
        if grad_loss is not None:
            if ctx.needs_input_grad[0]:
                flat_ED = grad_BSD.flatten(0, 1)
                scaled_ND = (grad_ND * grad_loss.to(grad_ND.device)).to(flat_ED.dtype)
                flat_ED = flat_ED.index_add(0, ctx.place_N.to(flat_ED.device), scaled_ND)
                grad_BSD = flat_ED.view(ctx.shape)
            if ctx.head is not None:
                head: _Pass = ctx.head
                sums = _Sums(log_total_N, set_NK, rest_NK, slope_NV if slope_NV.numel() else None)
                with whole(head.weight_VD, head.bias_V), torch.autocast(grad_ND.device.type, enabled=False):
                    grad_weight_VD, grad_bias_V = head.backward(hidden_ND, sums, grad_loss)
        return grad_BSD, grad_weight_VD, grad_bias_V, None


@dataclass(frozen=True, eq=False)
class _Sums:
    """Results of the forward that the gradient of the head's weight needs.

    Args:
        log_total_N: logarithm of the sum of exp(logit). A logit minus this value is a log-probability.
        set_NK, rest_NK: factors, in the derivative, of the probabilities inside and outside each set.
        slope_NV: the derivative with respect to the head's output, if all positions fit into one tile; else None.
    """

    log_total_N: Tensor
    set_NK: Tensor
    rest_NK: Tensor
    slope_NV: Tensor | None


@dataclass(frozen=True, eq=False)
class _Pass:
    """The penalised positions of one micro-batch, with the head that computes their logits."""

    weight_VD: Any
    bias_V: Any
    positions: Positions
    member_KV: Tensor
    transform: LogitTransform
    dtype: torch.dtype

    def pick(self, hidden_BSD: Tensor) -> Tensor:
        """The hidden states of the positions, `(N, D)`, on the head's device, in the dtype of the product."""
        flat_ED = hidden_BSD.detach().flatten(0, 1)
        return flat_ED[self.positions.place_N.to(flat_ED.device)].to(self.weight_VD.device, self.dtype)

    def forward(self, hidden_BSD: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, _Sums]:
        """Loss, probability `(N, T)`, gradient of the hidden states `(N, D)` and sums, a few positions at a time."""
        hidden_ND = self.pick(hidden_BSD)
        device, positions = hidden_ND.device, self.positions.to(hidden_ND.device)
        member_KV = self.member_KV.to(device)
        loss = torch.zeros((), device=device)
        parts: list[tuple[Tensor, ...]] = []
        slope_NV: Tensor | None = None
        for rows in _slices(len(hidden_ND), max(1, _tile(device) // member_KV.shape[1])):
            logits_NV, slope_NV = self._logits(hidden_ND[rows])
            top_N1 = logits_NV.amax(-1, keepdim=True)
            share_NV = logits_NV.sub_(top_N1).exp_()
            total_N1 = share_NV.sum(-1, keepdim=True)
            share_NV.div_(total_N1)
            inside_NK = share_NV @ member_KV.T
            outside_NK = (share_NV @ (1 - member_KV).T).clamp(min=torch.finfo(torch.float32).tiny)
            table_NT, weight_NT = positions.table_NT[rows], positions.weight_NT[rows]
            odds_NT = (inside_NK / outside_NK).gather(1, table_NT)
            loss = loss + (odds_NT.log1p() * weight_NT).sum()
            mass_NT = odds_NT / (1 + odds_NT)
            set_NK = torch.zeros_like(inside_NK).scatter_add_(1, table_NT, weight_NT)
            rest_NK = torch.zeros_like(inside_NK).scatter_add_(1, table_NT, weight_NT * odds_NT)
            grad_ND = hidden_ND.new_zeros(0, hidden_ND.shape[1], dtype=torch.float32)
            if with_gradient:
                slope_NV = self._slope(share_NV, slope_NV, set_NK, rest_NK, member_KV)
                grad_ND = self._to_hidden(slope_NV)
            parts.append((mass_NT, grad_ND, (top_N1 + total_N1.log())[:, 0], set_NK, rest_NK))
        if not parts:
            count, width = positions.weight_NT.shape[1], hidden_ND.shape[1]
            none = hidden_ND.new_zeros(0, len(member_KV), dtype=torch.float32)
            sums = _Sums(none[:, 0], none, none, None)
            return loss, none.new_zeros(0, count), none.new_zeros(0, width), sums
        mass_NT, grad_ND, log_total_N, set_NK, rest_NK = (torch.cat(one) for one in zip(*parts, strict=True))
        return loss, mass_NT, grad_ND, _Sums(log_total_N, set_NK, rest_NK, slope_NV if len(parts) == 1 else None)

    def backward(self, hidden_ND: Tensor, sums: _Sums, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the head's weight and bias, for a part of the vocabulary at a time."""
        if not len(hidden_ND):
            return None, None
        weight_VD, bias_V = self.weight_VD, self.bias_V
        grad_VD = torch.empty_like(weight_VD) if weight_VD.requires_grad else None
        grad_V = torch.empty_like(bias_V) if bias_V is not None and bias_V.requires_grad else None
        scaled_ND = hidden_ND * grad_loss.to(hidden_ND.device)
        scale = grad_loss.to(hidden_ND.device).float()
        for part in _slices(weight_VD.shape[0], max(1, _tile(hidden_ND.device) // len(hidden_ND))):
            slope_NC = self._slope_again(hidden_ND, sums, part)
            if grad_VD is not None and grad_VD.dtype == scaled_ND.dtype == slope_NC.dtype:
                torch.mm(slope_NC.T, scaled_ND, out=grad_VD[part])
            elif grad_VD is not None:
                grad_VD[part] = (scale * _product(slope_NC.T, hidden_ND)).to(grad_VD.dtype)
            if grad_V is not None:
                grad_V[part] = (scale * slope_NC.sum(0)).to(grad_V.dtype)
        return grad_VD, grad_V

    def _slope_again(self, hidden_ND: Tensor, sums: _Sums, part: slice) -> Tensor:
        """The derivative with respect to a part of the head's output: from the forward, or from recomputed logits."""
        if sums.slope_NV is not None:
            return sums.slope_NV[:, part]
        logits_NC, slope_NC = self._logits(hidden_ND, part)
        share_NC = logits_NC.sub_(sums.log_total_N[:, None]).exp_()
        return self._slope(share_NC, slope_NC, sums.set_NK, sums.rest_NK, self.member_KV.to(hidden_ND.device)[:, part])

    def _logits(self, hidden_ND: Tensor, part: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Logits of a part of the vocabulary in float32, and their derivative with respect to the head's output."""
        weight_VD = self.weight_VD.detach()[part]
        if weight_VD.dtype == self.dtype:
            output_NV = hidden_ND @ weight_VD.T
        else:  # under autocast, cast a part: a cast of the whole weight would double its memory
            slices = _slices(len(weight_VD), 1 << 15)
            output_NV = torch.cat([hidden_ND @ weight_VD[one].to(self.dtype).T for one in slices], dim=1)
        if self.bias_V is not None:
            output_NV = output_NV.float() + self.bias_V.detach()[part]
        return self.transform(output_NV)

    def _slope(
        self, share_NV: Tensor, slope_NV: Tensor | None, set_NK: Tensor, rest_NK: Tensor, member_KV: Tensor
    ) -> Tensor:
        """The loss's derivative with respect to the head's output. It overwrites the probabilities."""
        share_NV.mul_((set_NK @ member_KV).addmm_(rest_NK, 1 - member_KV, alpha=-1))
        if slope_NV is not None:
            share_NV.mul_(slope_NV)
        return share_NV if self.transform.scale == 1.0 else share_NV.mul_(self.transform.scale)

    def _to_hidden(self, slope_NV: Tensor) -> Tensor:
        """The gradient of the hidden states, `(N, D)` float32: the derivative times the head's weight."""
        weight_VD = self.weight_VD.detach()
        if weight_VD.dtype == slope_NV.dtype:
            return _product(slope_NV, weight_VD)
        total_ND = slope_NV.new_zeros(len(slope_NV), weight_VD.shape[1])
        for part in _slices(len(weight_VD), 1 << 15):
            total_ND += _product(slope_NV[:, part], weight_VD[part].to(self.dtype))
        return total_ND


def _product(slope: Tensor, other: Tensor) -> Tensor:
    """The product of two matrices, in float32. If `other` is bfloat16, so is the product: unlike float16, its range
    suffices for the derivatives."""
    if other.dtype == torch.bfloat16:
        return (slope.to(other.dtype) @ other).float()
    return slope @ other.float()


def _tile(device: torch.device) -> int:
    return TILE.get(device.type, TILE_ELSEWHERE)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
