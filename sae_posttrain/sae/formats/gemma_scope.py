"""Gemma Scope: `params.npz` with `W_enc (D, K)`, `W_dec (K, D)`, `b_enc`, `b_dec`, `threshold (K,)`; JumpReLU.

A repository holds many SAEs of a layer, at `layer_12/width_16k/average_l0_82/params.npz`. Nothing is subtracted or
scaled. Source: Lieberum et al., arXiv:2408.05147, and its tutorial.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..activations import JumpReLU
from ..model import SparseAutoencoder
from .found import Found, layer_in
from .reading import check_shapes, check_tensors, matrix_shape, no_k, read_npz

NAME = "Gemma Scope"
FILES = "layer_*/width_*/average_l0_*/params.npz"
KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(name, layer=layer_in(f"{source}/{name}", r"layer_(\d+)/"))
        for name in names
        # The embedding's SAEs lie beside those of the layers.
        if name.split("/")[-1] == "params.npz" and "embedding" not in name
    ]


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Raises: ValueError for a file that is damaged or holds other keys or shapes."""
    no_k(k, NAME)
    tensors = read_npz(weights, KEYS)
    check_tensors(weights, tensors, KEYS, NAME)
    d_model, d_sae = matrix_shape(weights, tensors, "W_enc")
    expected = {"W_enc": (d_model, d_sae), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
    check_shapes(weights, tensors, "W_enc", {**expected, "b_enc": (d_sae,), "threshold": (d_sae,)}, NAME)
    return SparseAutoencoder(
        encoder=tensors["W_enc"].T,
        bias=tensors["b_enc"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        activation=JumpReLU(tensors["threshold"]),
        layer=layer,
    )
