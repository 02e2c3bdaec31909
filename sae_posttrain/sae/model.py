"""The sparse autoencoder that every published format is converted to."""

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
    """One layer's SAE: `pre = (encoder @ x + bias) · feature_scale`, and decoding, which inverts the same steps.

    x is the residual after `input_norm`, `input_scale` and `subtract_decoder_bias`, applied in this order.
    With the defaults of the last four arguments:
    `pre = h @ encoder.T + bias` and `h ≈ activation(pre) @ decoder + decoder_bias`.

    Args:
        encoder: `(K, D)`, one row per feature. This and `decoder` may be strided views of a memory-mapped file.
        bias: `(K,)`.
        decoder: `(K, D)`, one direction per feature.
        decoder_bias: `(D,)`.
        activation: the nonlinearity over all K features.
        layer: 0-based decoder block whose output residual is read.
        source: the `source` that was passed to `load_sae`; the same for all layers of a set.
        file: the file of the weights, if they were loaded from one.
        format: name of the format it was published in.
        base_model: the model it was trained on, as its files say; empty when they do not.
        subtract_decoder_bias: whether `decoder_bias` is subtracted from the encoder's input.
        input_scale: factor by which the residual is multiplied.
        input_norm: normalisation of each token's residual: `none`, `layer_norm` (mean 0, standard deviation 1), or
            `constant_norm` (length sqrt(D)).
        feature_scale: `(K,)` factors. Pre-activations are multiplied by them, and directions are divided by them.

    Example:
        >>> from sae_posttrain.sae.activations import ReLU
        >>> sae = SparseAutoencoder(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), ReLU(), layer=0)
        >>> sae.encode(torch.tensor([1.0, -1.0])).tolist()
        [1.0, 0.0]

    Source: arXiv:2406.04093, Gao et al., section 2.
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
        """A copy on another device or in another dtype. This reads the whole memory-mapped file."""
        return replace(self.encoder_to(device, dtype), decoder=self.decoder.to(device=device, dtype=dtype))

    def encoder_to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SparseAutoencoder:
        """A copy with everything but the decoder moved. Encoding does not need the decoder, and it is large."""
        scale = self.feature_scale
        return replace(
            self,
            encoder=self.encoder.to(device=device, dtype=dtype),
            bias=self.bias.to(device=device, dtype=dtype),
            decoder_bias=self.decoder_bias.to(device=device, dtype=dtype),
            activation=self.activation.to(device=device, dtype=dtype),
            feature_scale=None if scale is None else _not_zero(scale.to(device=device, dtype=dtype)),
        )

    def pre_activations(self, residual: Tensor, features: Sequence[int] | None = None) -> Tensor:
        """The pre-activations `(..., K)` of a residual `(..., D)`, before any nonlinearity.

        With `features`, the result is `(..., F)` and only the rows of these features are read.
        """
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
        """The residual `(..., D)` that is decoded from activations `(..., K)`.

        Raises:
            ValueError: the SAE normalises each token, so the activations do not determine the residual's length. Use
                `reconstruct`.
        """
        if self.input_norm != "none":
            raise ValueError(
                f"{self.source} normalises each token ({self.input_norm}), so the residual's length cannot be decoded "
                "from activations alone. Call reconstruct(residual)."
            )
        return self._decoded(activations)

    def reconstruct(self, residual: Tensor, activations: Tensor | None = None) -> Tensor:
        """The SAE's reconstruction of a residual `(..., D)`.

        Pass the activations `(..., K)` if `encode` was already called, so that it is not called again.
        """
        centre, length = self._normalised(residual.to(self.encoder.dtype))[1:]
        return self._decoded(self.encode(residual) if activations is None else activations) * length + centre

    def direction(self, feature: int | Sequence[int]) -> Tensor:
        """The vector that one unit of a feature's activation adds to the residual: `(D,)`, or `(F, D)` for several.

        For an SAE without scales this is the stored row of the decoder, without normalisation.
        """
        rows = self._rows([feature] if isinstance(feature, int) else feature)
        directions_FD = _gathered(self.decoder, rows.to(self.decoder.device))
        if self.feature_scale is not None:
            directions_FD = directions_FD / self.feature_scale[rows].to(directions_FD.device)[:, None]
        if self.input_scale != 1:
            directions_FD = directions_FD / self.input_scale
        return directions_FD[0] if isinstance(feature, int) else directions_FD

    def folded(self, features: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows `(F, D)` and biases `(F,)` in float64 with which `pre = h @ rows.T + biases`, for every format.

        Raises:
            ValueError: the SAE normalises each token, so its pre-activations are not linear in the residual.
        """
        if self.input_norm != "none":
            raise ValueError(
                f"{self.source} (layer {self.layer}) normalises each token ({self.input_norm}), so its features are "
                "not linear in the residual and cannot be written into a feature set. Use another SAE."
            )
        rows = self._rows(features)
        encoder_FD, bias_F = _gathered(self.encoder, rows).double(), self.bias[rows].double()
        if self.subtract_decoder_bias:
            bias_F = bias_F - encoder_FD @ self.decoder_bias.double()
        scale_F = torch.ones_like(bias_F) if self.feature_scale is None else self.feature_scale[rows].double()
        return encoder_FD * scale_F[:, None] * self.input_scale, bias_F * scale_F

    def _normalised(self, residual: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The residual after `input_norm`, and the centre and length that undo the normalisation."""
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


def _not_zero(scale_K: Tensor) -> Tensor:
    """Replace scales that a cast made zero by the dtype's smallest number, since directions are divided by them."""
    return scale_K.clamp(min=torch.finfo(scale_K.dtype).tiny)


def _gathered(matrix_KD: Tensor, rows: Tensor) -> Tensor:
    if matrix_KD.is_contiguous():  # each row is in one piece, so reading ahead helps
        return matrix_KD[rows]
    with read_without_ahead(matrix_KD):
        return matrix_KD[rows]
