"""Llama Scope since llamascopium: `config.json` and `sae_weights.safetensors`; ReLU, JumpReLU or top-k.

`W_E (D, K)`, `b_E`, `W_D (K, D)`, `b_D`, or in Llama-Scope-R1-Distill `encoder.weight (K, D)`, `decoder.weight (D, K)`
and biases. Residuals are scaled to the length sqrt(D). Pre-activations are multiplied by their directions' norms before
the activation function, and its result is divided by them. Source: llamascopium 2.0.0b34, `models/sae.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..activations import Activation, JumpReLU, ReLU, TopK
from ..model import SparseAutoencoder
from .found import Found, layer_in, layer_of_hook, pairs
from .layout import laid_out
from .tensor_files import Tensors, check_k, no_k, number, one_of, read_config, read_safetensors, row_norms

NAME = "llamascopium"
FILES = "config.json beside sae_weights.safetensors"
LAYOUT = {"W_E": "DK", "W_D": "KD", "b_E": "K", "b_D": "D"}
OLDER = {"encoder.weight": "W_E", "encoder.bias": "b_E", "decoder.weight": "W_D", "decoder.bias": "b_D"}
THRESHOLD = "log_jumprelu_threshold"


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, layer_in(f"{source}/{folder}", r"(?:^|[/-])L(\d+)R(?=[/-]|$)"))
        for folder, weights, config in pairs(names, "sae_weights.safetensors", "config.json")
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
    one_of(settings, "sae_type", {"sae": "sae"}, config, "sae")
    if settings["hook_point_in"] != settings["hook_point_out"] or settings.get("use_glu_encoder"):
        raise ValueError(f"{config}: this is a transcoder, or has a gated encoder; only autoencoders can be used.")
    kind = one_of(settings, "act_fn", {name: name for name in ("relu", "jumprelu", "topk")}, config, "relu")
    stored = _renamed(read_safetensors(weights))
    if not settings.get("use_decoder_bias", True) and "W_D" in stored and stored["W_D"].dim() == 2:
        stored["b_D"] = stored["W_D"].new_zeros(stored["W_D"].shape[1])
    layout = {**LAYOUT, THRESHOLD: "K"} if kind == "jumprelu" else LAYOUT
    tensors = laid_out(weights, stored, layout, f"{NAME} {kind}")
    norms = row_norms(tensors["W_D"]) if settings.get("sparsity_include_decoder_norm", True) else None
    scale = one_of(settings, "norm_activation", {"dataset-wise": True, "inference": False}, config, "dataset-wise")
    return SparseAutoencoder(
        encoder=tensors["W_E"],
        bias=tensors["b_E"],
        decoder=tensors["W_D"],
        decoder_bias=tensors["b_D"],
        activation=_activation(kind, settings, tensors, config, norms, k),
        layer=layer_of_hook(settings["hook_point_in"], str(config)),
        input_scale=_scale(settings, stored, config, tensors["W_E"].shape[1]) if scale else 1.0,
    )


def _renamed(tensors: Tensors) -> Tensors:
    """Tensors with the names and the orientation of the newest layout."""
    turned = {
        new: tensors[old].mT if tensors[old].dim() == 2 else tensors[old]
        for old, new in OLDER.items()
        if old in tensors
    }
    if f"activation_function.{THRESHOLD}" in tensors:
        turned[THRESHOLD] = tensors[f"activation_function.{THRESHOLD}"]
    return {**tensors, **turned}


def _activation(
    kind: str, settings: Mapping[str, Any], tensors: Tensors, config: Path, norms: Tensor | None, k: int | None
) -> Activation:
    if kind == "topk":
        k = k if k is not None else number(settings, "top_k", config, int, 1)
        return TopK(check_k(k, len(tensors["W_E"])), weight=norms)
    no_k(k, f"{NAME} {kind}")
    if kind == "relu":  # a positive factor changes no sign
        return ReLU()
    threshold_K = tensors[THRESHOLD].exp()
    return JumpReLU(threshold_K if norms is None else threshold_K / norms)


def _scale(settings: Mapping[str, Any], tensors: Tensors, config: Path, d_model: int) -> float:
    key = f"dataset_average_activation_norm.{settings['hook_point_in']}"
    if key in tensors and tensors[key].numel() == 1:
        norm: Any = float(tensors[key])
    else:
        norms = settings.get("dataset_average_activation_norm")
        norm = norms.get("in", norms.get(settings["hook_point_in"])) if isinstance(norms, dict) else None
    return math.sqrt(d_model) / float(number({key: norm}, key, config, float, 1e-9))
