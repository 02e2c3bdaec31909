"""dictionary_learning: `ae.pt` and `config.json`, whose `dict_class` names one of six layouts.

AutoEncoder subtracts `bias`, and its directions are scaled to unit norm. BatchTopK applies its threshold, as the
library does at inference. Source: dictionary_learning 0.1.0, `dictionary.py` and `trainers/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..activations import Activation, JumpReLU, ReLU, TopK
from ..model import SparseAutoencoder
from .found import Found, layer_in, pairs
from .layout import LINEAR, PLAIN, Layout, laid_out
from .tensor_files import Tensors, check_k, no_k, number, one_of, read_config, read_pickle, row_norms

NAME = "dictionary_learning"
FILES = "config.json beside ae.pt"
# Our tensors' names in dictionary_learning; a name means the same in all classes.
OURS = {
    **dict.fromkeys(("encoder.weight", "W_enc"), "encoder"),
    **dict.fromkeys(("decoder.weight", "W_dec"), "decoder"),
    **dict.fromkeys(("encoder.bias", "b_enc", "mag_bias"), "bias"),
    **dict.fromkeys(("bias", "decoder.bias", "b_dec", "decoder_bias"), "decoder_bias"),
    **{"threshold": "threshold", "gate_bias": "gate", "r_mag": "mag"},
}
LAYOUTS: Mapping[str, Layout] = {
    "AutoEncoder": {**LINEAR, "encoder.bias": "K", "bias": "D"},
    "AutoEncoderNew": {**LINEAR, "encoder.bias": "K", "decoder.bias": "D"},
    "AutoEncoderTopK": {**LINEAR, "encoder.bias": "K", "b_dec": "D"},
    "BatchTopKSAE": {**LINEAR, "encoder.bias": "K", "b_dec": "D", "threshold": ""},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": ""},
    "JumpReluAutoEncoder": {**PLAIN, "threshold": "K"},
    "GatedAutoEncoder": {**LINEAR, "mag_bias": "K", "decoder_bias": "D", "gate_bias": "K", "r_mag": "K"},
}
KEEP_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")  # these do not subtract the decoder's bias


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, layer_in(f"{source}/{folder}", r"resid_post_layer_(\d+)(?=/|$)"))
        for folder, weights, config in pairs(names, "ae.pt", "config.json")
    ]


def layer_of(config: Path) -> int:
    """The layer in the settings."""
    return _layer(_trainer(config), config)


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: a file is damaged, or the SAE does not read the residual stream.
    """
    assert config is not None
    trainer = _trainer(config)
    kind = one_of(trainer, "dict_class", {name: name for name in LAYOUTS}, config)
    layout = LAYOUTS[kind]
    stored = laid_out(weights, read_pickle(weights, list(layout), NAME), layout, f"{NAME} {kind}")
    tensors = {OURS[name]: tensor for name, tensor in stored.items()}
    encoder, activation = _encoder(kind, tensors, trainer, config, k)
    return SparseAutoencoder(
        encoder=encoder,
        bias=tensors["bias"],
        decoder=tensors["decoder"],
        decoder_bias=tensors["decoder_bias"],
        activation=activation,
        layer=_layer(trainer, config),
        base_model=str(trainer.get("lm_name") or ""),
        subtract_decoder_bias=kind not in KEEP_INPUT,
        feature_scale=row_norms(tensors["decoder"]) if kind == "AutoEncoder" else None,
    )


def _encoder(
    kind: str, tensors: Tensors, trainer: Mapping[str, Any], config: Path, k: int | None
) -> tuple[torch.Tensor, Activation]:
    encoder = tensors["encoder"]
    if kind == "AutoEncoderTopK":
        return encoder, TopK(check_k(k if k is not None else number(trainer, "k", config, int, 1), encoder.shape[0]))
    no_k(k, f"{NAME} {kind}")
    if kind == "GatedAutoEncoder":  # see saelens.py
        magnitude_K = tensors["mag"].exp()
        return encoder * magnitude_K[:, None], JumpReLU(tensors["bias"] - magnitude_K * tensors["gate"])
    return encoder, JumpReLU(tensors["threshold"]) if "threshold" in tensors else ReLU()


def _trainer(config: Path) -> dict[str, Any]:
    trainer = read_config(config, ["trainer"])["trainer"]
    if not isinstance(trainer, dict):
        raise ValueError(f"{config}: trainer is {trainer!r}; expected its settings.")
    return trainer


def _layer(trainer: Mapping[str, Any], config: Path) -> int:
    place = trainer.get("submodule_name")
    if isinstance(place, str) and not place.startswith("resid_post"):
        raise ValueError(f"{config}: this SAE reads {place!r}; only SAEs of the residual stream can be used.")
    return int(number(trainer, "layer", config))
