"""A sparse autoencoder as every published format folds into it."""

# D model width, K dictionary size, F selected features, ... any leading dimensions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from .activations import Activation
from .mapping import read_without_ahead

InputNorm = Literal["none", "layer_norm", "constant_norm"]


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """One layer's SAE: `pre = (encoder @ x + bias) · feature_scale`, where x is what `input_norm`, `input_scale` and
    `subtract_decoder_bias`, in this order, make of the residual; decoding goes the same way back.

    With the defaults of the last four, `pre = h @ encoder.T + bias` and `h ≈ activation(pre) @ decoder + decoder_bias`.

    Args:
        encoder: `(K, D)`, one row per feature. This and `decoder` may be strided views of a memory-mapped file.
        bias: `(K,)`.
        decoder: `(K, D)`, one direction per feature.
        decoder_bias: `(D,)`.
        activation: the nonlinearity over all K features.
        layer: 0-based decoder block whose output residual is read.
        source: where it was loaded from, for provenance.
        file: the file its weights came from, if it was one.
        format: name of the format it was published in.
        base_model: the model it was trained on, as its files say; empty when they do not.
        subtract_decoder_bias: whether the encoder reads the residual less `decoder_bias`.
        input_scale: what the residual is multiplied by.
        input_norm: what is done to each token's residual: nothing, `layer_norm` to mean 0 and deviation 1, or
            `constant_norm` to the length sqrt(D).
        feature_scale: `(K,)` by which pre-activations are multiplied and directions divided.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    activation: Activation
    layer: int
    source: str = ""
    file: str = ""
    format: str = ""
    base_model: str = ""
    subtract_decoder_bias: bool = False
    input_scale: float = 1.0
    input_norm: InputNorm = "none"
    feature_scale: Tensor | None = None

    @property
    def d_model(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return self.encoder.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseAutoencoder:
        """A copy with its tensors elsewhere. This reads a memory-mapped file whole."""
        return replace(self.encoder_to(device, dtype), decoder=self.decoder.to(device=device, dtype=dtype))

    def encoder_to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SparseAutoencoder:
        """A copy with all but its decoder elsewhere: a decoder is as large as the encoder, and encoding needs none."""
        scale = self.feature_scale
        return replace(
            self,
            encoder=self.encoder.to(device=device, dtype=dtype),
            bias=self.bias.to(device=device, dtype=dtype),
            decoder_bias=self.decoder_bias.to(device=device, dtype=dtype),
            activation=self.activation.to(device=device, dtype=dtype),
            feature_scale=None if scale is None else scale.to(device=device, dtype=dtype),
        )

    def pre_activations(self, residual: Tensor, features: Sequence[int] | None = None) -> Tensor:
        """What the features read off a residual `(..., D)` before any nonlinearity: `(..., K)`, or `(..., F)` for
        the given features, in which case only their rows are read."""
        self._check_width(residual)
        x = self._normalised(residual.to(self.encoder.dtype))[0]
        if self.input_scale != 1:
            x = x * self.input_scale
        if self.subtract_decoder_bias:
            x = x - self.decoder_bias
        encoder, bias, scale = self.encoder, self.bias, self.feature_scale
        if features is not None:
            rows = self._rows(features)
            encoder, bias, scale = _gathered(encoder, rows), bias[rows], None if scale is None else scale[rows]
        pre = linear(x, encoder, bias)
        return pre if scale is None else pre * scale

    def encode(self, residual: Tensor) -> Tensor:
        """Feature activations `(..., K)` of a residual `(..., D)`."""
        return self.activation(self.pre_activations(residual))

    def decode(self, activations: Tensor) -> Tensor:
        """The residual `(..., D)` that activations `(..., K)` stand for.

        Raises: ValueError when each token is normalised on its own, since then the activations do not say how long
            the residual was; use `reconstruct`.
        """
        if self.input_norm != "none":
            raise ValueError(
                f"{self.source} normalises each token ({self.input_norm}), so activations alone do not say what they "
                "stand for. Call reconstruct(residual)."
            )
        return self._decoded(activations)

    def reconstruct(self, residual: Tensor) -> Tensor:
        """What the SAE makes of a residual `(..., D)`: the same, but for what it misses."""
        centre, length = self._normalised(residual.to(self.encoder.dtype))[1:]
        return self._decoded(self.encode(residual)) * length + centre

    def direction(self, feature: int | Sequence[int]) -> Tensor:
        """What one unit of a feature's activation adds to the residual: `(D,)`, or `(F, D)` for several features.

        Of an SAE with neither scale this is the row of the decoder as stored, not normalised.
        """
        rows = self._rows([feature] if isinstance(feature, int) else feature)
        directions_FD = _gathered(self.decoder, rows.to(self.decoder.device))
        if self.feature_scale is not None:
            directions_FD = directions_FD / self.feature_scale[rows].to(directions_FD.device)[:, None]
        if self.input_scale != 1:
            directions_FD = directions_FD / self.input_scale
        return directions_FD[0] if isinstance(feature, int) else directions_FD

    def folded(self, features: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows `(F, D)` and biases `(F,)` in float64 with which `pre = h @ rows.T + biases`, whatever the format does.

        Raises: ValueError when each token is normalised on its own, which no such rows can express.
        """
        if self.input_norm != "none":
            raise ValueError(
                f"{self.source} (layer {self.layer}) normalises each token ({self.input_norm}), so its features are no "
                "linear function of the residual and cannot be written into a feature set. Use another SAE."
            )
        rows = self._rows(features)
        encoder_FD, bias_F = _gathered(self.encoder, rows).double(), self.bias[rows].double()
        if self.subtract_decoder_bias:
            bias_F = bias_F - encoder_FD @ self.decoder_bias.double()
        scale_F = torch.ones_like(bias_F) if self.feature_scale is None else self.feature_scale[rows].double()
        return encoder_FD * scale_F[:, None] * self.input_scale, bias_F * scale_F

    def _normalised(self, residual: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The residual as `input_norm` has it, and the centre and length that lead back."""
        if self.input_norm == "layer_norm":
            centre = residual.mean(-1, keepdim=True)
            length = residual.std(-1, keepdim=True)
            return (residual - centre) / (length + 1e-5), centre, length
        if self.input_norm == "constant_norm":
            length = residual.norm(dim=-1, keepdim=True) / self.d_model**0.5
            return residual / length, 0.0, length
        return residual, 0.0, 1.0

    def _decoded(self, activations: Tensor) -> Tensor:
        if self.feature_scale is not None:
            activations = activations / self.feature_scale
        return (activations @ self.decoder + self.decoder_bias) / self.input_scale

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


def _gathered(matrix_KD: Tensor, rows: Tensor) -> Tensor:
    if matrix_KD.is_contiguous():  # a row lies in one piece, and reading ahead helps
        return matrix_KD[rows]
    with read_without_ahead(matrix_KD):
        return matrix_KD[rows]
