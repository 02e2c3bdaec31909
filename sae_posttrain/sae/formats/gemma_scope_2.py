"""Gemma Scope 2: `config.json` and `params.safetensors`, Gemma Scope's tensors in lower case; JumpReLU.

A repository has SAEs of several places in the model, in folders such as `resid_post/layer_12_width_16k_l0_small/`. Only
those of the residual stream can be used. Source: the model cards of google/gemma-scope-2-*, and their loader in
sae_lens 6.54.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..activations import JumpReLU
from ..model import SparseAutoencoder
from .found import Found, layer_in, layer_of_hook, pairs
from .layout import laid_out
from .tensor_files import no_k, one_of, read_config, read_safetensors

NAME = "Gemma Scope 2"
FILES = "config.json beside params.safetensors"
LAYOUT = {"w_enc": "DK", "w_dec": "KD", "b_enc": "K", "b_dec": "D", "threshold": "K"}


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, layer_in(f"{source}/{folder}", r"layer_(\d+)"))
        for folder, weights, config in pairs(names, "params.safetensors", "config.json")
    ]


def layer_of(config: Path) -> int:
    """The layer in the settings."""
    return layer_of_hook(read_config(config).get("hf_hook_point_in"), str(config))


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: a file is damaged, or the SAE does not read the residual stream.
    """
    assert config is not None
    no_k(k, NAME)
    settings = read_config(config, ["hf_hook_point_in"])
    one_of(settings, "architecture", {"jump_relu": "jump_relu"}, config)
    tensors = laid_out(weights, read_safetensors(weights), LAYOUT, NAME)
    return SparseAutoencoder(
        encoder=tensors["w_enc"],
        bias=tensors["b_enc"],
        decoder=tensors["w_dec"],
        decoder_bias=tensors["b_dec"],
        activation=JumpReLU(tensors["threshold"]),
        layer=layer_of_hook(settings["hf_hook_point_in"], str(config)),
        base_model=str(settings.get("model_name") or ""),
    )
