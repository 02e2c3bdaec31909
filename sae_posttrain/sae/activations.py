"""Activation functions: from pre-activations `(..., K)` to activations of the same shape."""

# K dictionary size, ... any leading dimensions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


class Activation(Protocol):
    def __call__(self, pre: Tensor) -> Tensor: ...

    def to(self, **where: Any) -> Activation:
        """A copy whose tensors are on another `device` or have another `dtype`."""
        ...

    def cutoff(self, features: Sequence[int]) -> Tensor | None:
        """`(F,)` pre-activation above which each of these features fires; None if that depends on the others."""
        ...


@dataclass(frozen=True, eq=False)
class TopK:
    """Keep the `k` largest pre-activations of each token, then apply ReLU.

    Args:
        k: number of pre-activations that are kept.
        weight: `(K,)` factors by which pre-activations are multiplied before they are compared. Default: none.

    Source: Gao et al., arXiv:2406.04093.
    """

    k: int
    weight: Tensor | None = None

    def __call__(self, pre: Tensor) -> Tensor:
        indices = (pre if self.weight is None else pre * self.weight).topk(self.k, dim=-1).indices
        return torch.zeros_like(pre).scatter_(-1, indices, pre.gather(-1, indices).relu())

    def to(self, **where: Any) -> TopK:
        return self if self.weight is None else replace(self, weight=self.weight.to(**where))

    def cutoff(self, features: Sequence[int]) -> None:
        return None

    def __str__(self) -> str:
        return f"TopK, k={self.k}"


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """Keep the pre-activations that are above a threshold and above zero.

    Args:
        threshold: `(K,)`, or one number for all features.

    Source: Rajamanoharan et al., arXiv:2407.14435.
    """

    threshold: Tensor

    def __call__(self, pre: Tensor) -> Tensor:
        return pre.relu() * (pre > self.threshold)

    def to(self, **where: Any) -> JumpReLU:
        return replace(self, threshold=self.threshold.to(**where))

    def cutoff(self, features: Sequence[int]) -> Tensor:
        own_F = self.threshold[list(features)] if self.threshold.ndim else self.threshold.expand(len(features))
        return own_F.clamp(min=0)

    def __str__(self) -> str:
        return f"JumpReLU, thresholds {float(self.threshold.min()):.3g} to {float(self.threshold.max()):.3g}"


@dataclass(frozen=True)
class ReLU:
    def __call__(self, pre: Tensor) -> Tensor:
        return pre.relu()

    def to(self, **where: Any) -> ReLU:
        return self

    def cutoff(self, features: Sequence[int]) -> Tensor:
        return torch.zeros(len(features))

    def __str__(self) -> str:
        return "ReLU"
