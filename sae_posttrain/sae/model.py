"""A sparse autoencoder as every published format folds into it."""

# D model width, K dictionary size, F selected features, ... any leading dimensions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from .mapping import read_without_ahead


class Activation(Protocol):
    """What turns pre-activations `(..., K)` into activations of the same shape."""

    def __call__(self, pre: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TopK:
    """Keep the `k` largest pre-activations of each token, then ReLU (Gao et al., arXiv:2406.04093)."""

    k: int

    def __call__(self, pre: Tensor) -> Tensor:
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter_(-1, indices, values.relu())


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """One layer's SAE: `pre = h @ encoder.T + bias`, `h ≈ activation(pre) @ decoder + decoder_bias`.

    Args:
        encoder: `(K, D)`, one row per feature.
        bias: `(K,)`, with everything the format subtracts from its input folded in.
        decoder: `(K, D)`, one direction per feature. May be a strided view of a memory-mapped file.
        decoder_bias: `(D,)`.
        activation: the nonlinearity over all K features.
        layer: 0-based decoder block whose output residual is read.
        source: where it was loaded from, for provenance.
        file: the file it was loaded from, if it was one.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    activation: Activation
    layer: int
    source: str = ""
    file: str = ""

    @property
    def d_model(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return self.encoder.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseAutoencoder:
        """A copy with its tensors elsewhere. This reads a memory-mapped file whole."""
        return replace(
            self,
            encoder=self.encoder.to(device=device, dtype=dtype),
            bias=self.bias.to(device=device, dtype=dtype),
            decoder=self.decoder.to(device=device, dtype=dtype),
            decoder_bias=self.decoder_bias.to(device=device, dtype=dtype),
        )

    def pre_activations(self, residual: Tensor, features: Sequence[int] | None = None) -> Tensor:
        """What the features read off a residual `(..., D)` before any nonlinearity: `(..., K)`, or `(..., F)` for
        the given features, in which case only their rows are read."""
        self._check_width(residual)
        if features is None:
            return linear(residual.to(self.encoder.dtype), self.encoder, self.bias)
        rows = self._rows(features)
        return linear(residual.to(self.encoder.dtype), self.encoder[rows], self.bias[rows])

    def encode(self, residual: Tensor) -> Tensor:
        """Feature activations `(..., K)` of a residual `(..., D)`."""
        return self.activation(self.pre_activations(residual))

    def decode(self, activations: Tensor) -> Tensor:
        """The residual `(..., D)` that activations `(..., K)` stand for."""
        return activations @ self.decoder + self.decoder_bias

    def direction(self, feature: int | Sequence[int]) -> Tensor:
        """The decoder direction of one feature `(D,)`, or of several `(F, D)`, as stored (not normalised)."""
        rows = self._rows([feature] if isinstance(feature, int) else feature)
        with read_without_ahead(self.decoder):
            directions_FD = self.decoder[rows.to(self.decoder.device)]
        return directions_FD[0] if isinstance(feature, int) else directions_FD

    def _rows(self, features: Sequence[int]) -> Tensor:
        outside = [feature for feature in features if not 0 <= feature < self.d_sae]
        if outside:
            raise ValueError(
                f"Feature {outside[0]} is out of range: the dictionary has features 0 to {self.d_sae - 1}."
            )
        return torch.tensor(list(features), dtype=torch.long, device=self.encoder.device)

    def _check_width(self, residual: Tensor) -> None:
        if residual.shape[-1] != self.d_model:
            raise ValueError(
                f"The residual is {residual.shape[-1]} wide, but this SAE ({self.source} layer {self.layer}) reads "
                f"{self.d_model}: it was trained on another model."
            )
