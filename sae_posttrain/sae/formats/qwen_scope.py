"""Qwen-Scope: `layer{n}.sae.pt`, a dict of `W_enc (K, D)`, `W_dec (D, K)`, `b_enc (K,)`, `b_dec (D,)`; top-k.

`pre = h @ W_enc.T + b_enc`, without subtracting `b_dec` and without scaling. Only the repository's name says k, as
`…-L0_50`. Source: Qwen-Scope, arXiv:2605.11887, and the model cards of its repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..activations import TopK
from ..model import SparseAutoencoder
from .found import Found
from .layout import laid_out
from .tensor_files import check_k, read_pickle

NAME = "Qwen-Scope"
FILES = "layer0.sae.pt, layer1.sae.pt, …"
LAYOUT = {"W_enc": "KD", "W_dec": "DK", "b_enc": "K", "b_dec": "D"}
layer_of = None


def find(names: Iterable[str], source: str) -> list[Found]:
    return [Found(name, layer=int(match[1])) for name in names if (match := re.search(r"\blayer(\d+)\.sae\.pt$", name))]


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE. The file is memory-mapped, and read only where it is used.

    Raises:
        ValueError: the file is truncated, has other keys or shapes, or would execute code; or k is unknown.
    """
    k = k if k is not None else _k_from_name(source)
    tensors = laid_out(weights, read_pickle(weights, list(LAYOUT), NAME), LAYOUT, NAME)
    return SparseAutoencoder(
        encoder=tensors["W_enc"],
        bias=tensors["b_enc"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        activation=TopK(check_k(k, len(tensors["W_enc"]))),
        layer=layer,
    )


def _k_from_name(source: str) -> int:
    path = Path(source)
    names = [path.name]
    if path.exists():  # a link's target, or the repository of a hub cache's snapshot
        names += [path.resolve().name, *(part for part in path.resolve().parts if part.startswith("models--"))]
    found = [match[1] for name in names if (match := re.search(r"L0_(\d+)", name))]
    if not found:
        raise ValueError(
            f"The number of active features (k) is not part of the name {source!r}: expected …-L0_50 or the like, "
            "as in Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50. Pass k=…"
        )
    return int(found[0])
