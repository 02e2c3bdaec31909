"""EleutherAI's sparsify: `layers.{n}/cfg.json` and `sae.safetensors`; `b_dec` is subtracted; top-k.

`encoder.weight (K, D)`, `encoder.bias`, `W_dec (K, D)`, `b_dec`. Only the folder's name says which hookpoint the SAE
reads. Source: eai-sparsify 1.3.3, `sparse_coder.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..activations import TopK
from ..model import SparseAutoencoder
from .found import Found, layer_of_hook, pairs
from .layout import laid_out
from .tensor_files import check_k, number, one_of, read_config, read_safetensors

NAME = "sparsify"
FILES = "layers.*/cfg.json beside layers.*/sae.safetensors"
LAYOUT = {"encoder.weight": "KD", "W_dec": "KD", "encoder.bias": "K", "b_dec": "D"}
layer_of = None  # the settings do not say it


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, _layer(PurePosixPath(source, folder).name))
        for folder, weights, config in pairs(names, "sae.safetensors", "cfg.json")
    ]


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: a file is damaged, or this library cannot use such an SAE.
    """
    assert config is not None
    settings = read_config(config, ["k", "d_in"])
    unfit = [name for name in ("transcode", "skip_connection", "signed") if settings.get(name)]
    if unfit:
        raise ValueError(f"{config}: {unfit[0]} is set; only plain sparse autoencoders can be used.")
    one_of(settings, "activation", {"topk": "topk"}, config, "topk")
    if re.search(r"\b(layers|h|blocks)\.\d", weights.parent.name):  # named after a hookpoint, as sparsify does
        layer_of_hook(weights.parent.name, str(config))
    tensors = laid_out(weights, read_safetensors(weights), LAYOUT, NAME)
    d_sae, d_model = tensors["encoder.weight"].shape
    if settings["d_in"] != d_model:
        raise ValueError(f"{config} says d_in={settings['d_in']!r}; the weights are of width {d_model}.")
    return SparseAutoencoder(
        encoder=tensors["encoder.weight"],
        bias=tensors["encoder.bias"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        activation=TopK(check_k(k if k is not None else number(settings, "k", config, int, 1), d_sae)),
        layer=layer,
        base_model=str(settings.get("model") or ""),  # which `sae train` adds
        subtract_decoder_bias=True,
    )


def _layer(hookpoint: str) -> int | None:
    """The block in a folder's name, if there is one; `layers.3.mlp` is not the residual stream."""
    try:
        return layer_of_hook(hookpoint, hookpoint)
    except ValueError:
        return None
