"""Read features from a residual during the forward, which saves memory in the backward.

If features were read after the forward, their gradient would be computed first in the backward. It would need one
tensor of the residual's size per layer, at the step's memory peak. Reading during the forward keeps only `(B, S, F)`.
"""

# B batch, S sequence, D model width, F features

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def read_features(residual_BSD: Tensor, rows_FD: Tensor) -> tuple[Tensor, Tensor]:
    """The residual that must replace this one, and its products with the rows, `(B, S, F)` in the residual's dtype."""
    if not torch.is_grad_enabled():
        return residual_BSD, linear(residual_BSD, rows_FD)
    passed_BSD, read_BSF = _Reading.apply(residual_BSD, rows_FD)  # type: ignore[no-untyped-call]
    return passed_BSD, read_BSF


class _Reading(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual_BSD: Tensor, rows_FD: Tensor) -> tuple[Tensor, Tensor]:
        # Do not use save_for_backward: with hooks inside a checkpointed block, the recomputation would not save it
        # again.
        ctx.rows_FD = rows_FD
        # Return a copy, because a view from a custom function must not be changed in place.
        return residual_BSD.clone(), linear(residual_BSD, rows_FD)

    @staticmethod
    def backward(ctx: Any, grad_BSD: Tensor, grad_BSF: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(grad_BSD.device.type, enabled=False):
            summed_ND = torch.addmm(grad_BSD.flatten(0, 1), grad_BSF.flatten(0, 1), ctx.rows_FD)
        return summed_ND.view_as(grad_BSD), None
