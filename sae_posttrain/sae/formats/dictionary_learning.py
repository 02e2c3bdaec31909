"""dictionary_learning: `ae.pt` and `config.json`, whose `dict_class` names one of six layouts.

AutoEncoder subtracts `bias` and is read with its directions brought to unit norm; BatchTopK applies its threshold, as
its library does at inference. Source: dictionary_learning 0.1.0, `dictionary.py` and `trainers/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..activations import Activation, JumpReLU, ReLU, TopK
from ..model import SparseAutoencoder
from .found import Found, layer_in, pairs
from .reading import (
    Tensors,
    check_k,
    check_shapes,
    check_tensors,
    matrix_shape,
    no_k,
    number,
    one_of,
    read_config,
    read_pickle,
)

NAME = "dictionary_learning"
FILES = "config.json beside ae.pt"
# Their names for our tensors, per class; a name that ends in .weight is nn.Linear's, the other way round.
LINEAR = {"encoder": "encoder.weight", "decoder": "decoder.weight", "bias": "encoder.bias"}
PLAIN = {"encoder": "W_enc", "decoder": "W_dec", "bias": "b_enc", "decoder_bias": "b_dec"}
CLASSES: Mapping[str, Mapping[str, str]] = {
    "AutoEncoder": {**LINEAR, "decoder_bias": "bias"},
    "AutoEncoderNew": {**LINEAR, "decoder_bias": "decoder.bias"},
    "AutoEncoderTopK": {**LINEAR, "decoder_bias": "b_dec"},
    "BatchTopKSAE": {**LINEAR, "decoder_bias": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": "threshold"},
    "JumpReluAutoEncoder": {**PLAIN, "threshold": "threshold"},
    "GatedAutoEncoder": {
        **LINEAR,
        "bias": "mag_bias",
        "decoder_bias": "decoder_bias",
        "gate": "gate_bias",
        "mag": "r_mag",
    },
}
KEEP_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")  # these do not subtract their decoder's bias


def find(names: Iterable[str], source: str) -> list[Found]:
    return [
        Found(weights, config, layer_in(f"{source}/{folder}", r"resid_post_layer_(\d+)(?=/|$)"))
        for folder, weights, config in pairs(names, "ae.pt", "config.json")
    ]


def layer_of(config: Path) -> int:
    """The layer that the settings name."""
    return _layer(_trainer(config), config)


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Raises: ValueError for files that are damaged, or of an SAE of something else than the residual stream."""
    assert config is not None
    trainer = _trainer(config)
    kind = one_of(trainer, "dict_class", {name: name for name in CLASSES}, config)
    keys = list(CLASSES[kind].values())
    stored = read_pickle(weights, keys, NAME)
    check_tensors(weights, stored, keys, f"{NAME} {kind}")
    tensors = {
        ours: stored[theirs].mT if stored[theirs].dim() == 2 and not _is_rows(ours, theirs) else stored[theirs]
        for ours, theirs in CLASSES[kind].items()
    }
    d_sae, d_model = matrix_shape(weights, tensors, "encoder")
    expected = {"decoder": (d_sae, d_model), "bias": (d_sae,), "decoder_bias": (d_model,)}
    expected |= {name: (d_sae,) for name in ("gate", "mag") if name in tensors}
    if "threshold" in tensors:
        expected["threshold"] = (d_sae,) if kind == "JumpReluAutoEncoder" else ()
    check_shapes(weights, tensors, "encoder", expected, NAME)
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
        feature_scale=tensors["decoder"].norm(dim=-1).clamp(min=1e-8) if kind == "AutoEncoder" else None,
    )


def _is_rows(ours: str, theirs: str) -> bool:
    """Whether a matrix lies as `(K, D)` in the file."""
    return theirs == "encoder.weight" or (ours == "decoder" and theirs == "W_dec")


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
