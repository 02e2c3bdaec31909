"""Gemma Scope: `params.npz` with `W_enc (D, K)`, `W_dec (K, D)`, `b_enc`, `b_dec`, `threshold (K,)`; JumpReLU.

A repository has many SAEs for each layer, as `layer_12/width_16k/average_l0_82/params.npz`. Nothing is subtracted or
scaled. Source: Lieberum et al., arXiv:2408.05147, and its tutorial.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..activations import JumpReLU
from ..model import SparseAutoencoder
from .found import Found, layer_in
from .layout import PLAIN, laid_out
from .tensor_files import no_k, read_npz

NAME = "Gemma Scope"
FILES = "layer_*/width_*/average_l0_*/params.npz"
LAYOUT = {**PLAIN, "threshold": "K"}
layer_of = None
# The files do not say what an SAE reads. The repository's name does, as in gemma-scope-2b-pt-mlp.
ELSEWHERE = re.compile(r"(?:^|[/_-])(transcoders?|mlp|att)(?:/|$)")


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(name, layer=None if ELSEWHERE.search(name) else layer_in(f"{source}/{name}", r"layer_(\d+)/"))
        for name in names
        # SAEs of the embedding are in folders beside those of the layers.
        if name.split("/")[-1] == "params.npz" and "embedding" not in name
    ]


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: the file is damaged, has other keys or shapes, or the source has SAEs of something else.
    """
    for place in (source, weights.as_posix(), weights.resolve().as_posix()):
        if other := ELSEWHERE.search(place):
            raise ValueError(
                f"{weights}: {other[1]!r} in {place} shows that this SAE reads something else; only SAEs of the "
                "residual stream can be used, such as those of google/gemma-scope-2b-pt-res."
            )
    no_k(k, NAME)
    tensors = laid_out(weights, read_npz(weights, list(LAYOUT)), LAYOUT, NAME)
    return SparseAutoencoder(
        encoder=tensors["W_enc"],
        bias=tensors["b_enc"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        activation=JumpReLU(tensors["threshold"]),
        layer=layer,
    )
