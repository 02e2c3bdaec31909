"""Llama Scope, first release: `hyperparams.json` and `checkpoints/final.safetensors`; JumpReLU with one threshold.

`encoder.weight (K, D)`, `decoder.weight (D, K)` and biases are stored as in training, for residuals scaled to the
length sqrt(D). The threshold is for unscaled residuals and directions of unit norm. Loading therefore divides biases by
the scale, and multiplies every feature by its direction's norm. Source: lm-saes of November 2024,
`SparseAutoEncoder.from_config`; He et al., arXiv:2410.20526.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..activations import Activation, JumpReLU, ReLU, TopK
from ..model import SparseAutoencoder
from .found import Found, layer_in, layer_of_hook, pairs
from .layout import LINEAR, laid_out
from .tensor_files import check_k, no_k, number, one_of, read_config, read_safetensors, row_norms

NAME = "Llama Scope"
FILES = "hyperparams.json beside checkpoints/final.safetensors"
LAYOUT = {**LINEAR, "encoder.bias": "K", "decoder.bias": "D"}


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, layer_in(f"{source}/{folder}", r"-L(\d+)R-\d+x"))
        for folder, weights, config in pairs(names, "checkpoints/final.safetensors", "hyperparams.json")
    ]


def layer_of(config: Path) -> int:
    """The layer in the settings."""
    return layer_of_hook(read_config(config).get("hook_point_in"), str(config))


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: a file is damaged, or this library cannot use such an SAE.
    """
    assert config is not None
    settings = read_config(config, ["hook_point_in", "hook_point_out"])
    if settings["hook_point_in"] != settings["hook_point_out"] or settings.get("use_glu_encoder"):
        raise ValueError(f"{config}: this is a transcoder, or has a gated encoder; only autoencoders can be used.")
    tensors = laid_out(weights, read_safetensors(weights), LAYOUT, NAME)
    d_sae, d_model = tensors["encoder.weight"].shape
    scale = one_of(settings, "norm_activation", {"dataset-wise": True, "inference": False}, config)
    factor = _scale(settings, config, d_model) if scale else 1.0
    norms = row_norms(tensors["decoder.weight"]) if settings.get("sparsity_include_decoder_norm") else None
    return SparseAutoencoder(
        encoder=tensors["encoder.weight"],
        bias=tensors["encoder.bias"] / factor,
        decoder=tensors["decoder.weight"],
        decoder_bias=tensors["decoder.bias"] / factor,
        activation=_activation(settings, config, d_sae, k),
        layer=layer_of_hook(settings["hook_point_in"], str(config)),
        subtract_decoder_bias=bool(settings.get("apply_decoder_bias_to_pre_encoder")),
        feature_scale=norms,
    )


def _scale(settings: Mapping[str, Any], config: Path, d_model: int) -> float:
    norms = settings.get("dataset_average_activation_norm")
    if not isinstance(norms, dict) or norms.get("in") != norms.get("out"):
        raise ValueError(
            f"{config}: dataset_average_activation_norm is {norms!r}; expected the same number for 'in' and 'out'."
        )
    return math.sqrt(d_model) / float(number(norms, "in", config, float, 1e-9))


def _activation(settings: Mapping[str, Any], config: Path, d_sae: int, k: int | None) -> Activation:
    threshold = float(number({"jump_relu_threshold": 0.0, **settings}, "jump_relu_threshold", config, float))
    kind = one_of(settings, "act_fn", {name: name for name in ("jumprelu", "topk", "relu")}, config)
    if kind == "topk" and threshold == 0:
        return TopK(check_k(k if k is not None else number(settings, "top_k", config, int, 1), d_sae))
    no_k(k, f"{NAME} {kind}")
    return ReLU() if kind == "relu" else JumpReLU(torch.tensor(threshold))
