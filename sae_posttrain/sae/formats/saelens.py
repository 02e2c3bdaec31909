"""SAELens: `cfg.json` and `sae_weights.safetensors` with `W_enc (D, K)`, `W_dec (K, D)`, `b_enc`, `b_dec`; five kinds.

The settings say which steps are applied to the residual, in this order: normalisation per token, a scale, subtracting
`b_dec`. Top-k SAEs may multiply pre-activations by the norm of their directions, and divide by it when decoding. A
BatchTopK SAE is saved as a JumpReLU one. Source: sae_lens 6.54, `sae_lens.saes` and `handle_pre_6_0_config`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ..activations import Activation, JumpReLU, ReLU, TopK
from ..model import InputNorm, SparseAutoencoder
from .found import Found, layer_in, layer_of_hook, pairs
from .layout import PLAIN, Layout, laid_out
from .tensor_files import Tensors, check_k, no_k, number, one_of, read_config, read_safetensors, row_norms

NAME = "SAELens"
FILES = "cfg.json beside sae_weights.safetensors"
LAYOUTS: Mapping[str, Layout] = {
    "standard": PLAIN,
    "topk": PLAIN,
    "jumprelu": {**PLAIN, "threshold": "K"},
    "gated": {"W_enc": "DK", "W_dec": "KD", "b_dec": "D", **dict.fromkeys(("b_gate", "b_mag", "r_mag"), "K")},
}
NORMS: Mapping[Any, InputNorm] = {
    None: "none",
    "none": "none",
    False: "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
# Activation functions by their names in the settings; `topk` is a separate kind of SAE.
FUNCTIONS: Mapping[Any, str] = {None: "relu", "relu": "relu", "topk": "topk"}
SCALED = (True, "expected_average_only_in")
SCALER = "activation_scaler.json"


def find(names: Iterable[str], source: str) -> list[Found]:
    present, found = set(names), []
    for folder, weights, config in pairs(present, "sae_weights.safetensors", "cfg.json"):
        scaler = str(PurePosixPath(folder, SCALER))
        layer = layer_in(f"{source}/{folder}", r"blocks\.(\d+)\.hook_resid_post")
        found.append(Found(weights, config, layer, beside=scaler if scaler in present else ""))
    return found


def layer_of(config: Path) -> int:
    """The layer in the settings."""
    return layer_of_hook(_metadata(read_config(config)).get("hook_name"), str(config))


def load(weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Load one SAE.

    Raises:
        ValueError: a file is damaged, or this library cannot use such an SAE.
    """
    assert config is not None
    settings = _current(read_config(config, ["d_in", "d_sae"]), config)
    kind = one_of(settings, "architecture", {kind: kind for kind in LAYOUTS}, config, "standard")
    if settings.get("reshape_activations", "none") != "none" or _metadata(settings).get("hook_head_index") is not None:
        raise ValueError(f"{config}: this SAE reads attention heads; only SAEs of the residual stream can be used.")
    if _metadata(settings).get("finetuning_scaling_factor"):
        raise ValueError(
            f"{config}: finetuning_scaling_factor is set, so activations are multiplied by learnt factors, which this "
            "library does not support. Use a release of this SAE without fine-tuning, or fold the factors into W_dec "
            "and save the SAE again without the setting."
        )
    tensors = laid_out(weights, read_safetensors(weights), LAYOUTS[kind], f"{NAME} {kind}")
    d_sae, d_model = tensors["W_enc"].shape
    if (settings["d_in"], settings["d_sae"]) != (d_model, d_sae):
        raise ValueError(
            f"{config} says d_in={settings['d_in']} and d_sae={settings['d_sae']}, and the weights have {d_model} and "
            f"{d_sae}. Download both again."
        )
    scaled = settings.get("normalize_activations") in SCALED
    encoder, bias, activation = _encoder(kind, tensors, settings, config, k)
    return SparseAutoencoder(
        encoder=encoder,
        bias=bias,
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        activation=activation,
        layer=layer_of_hook(_metadata(settings).get("hook_name"), str(config)),
        base_model=str(_metadata(settings).get("model_name") or ""),
        subtract_decoder_bias=bool(settings.get("apply_b_dec_to_input", True)),
        input_scale=_scale(weights.parent / SCALER) if scaled else 1.0,
        input_norm="none" if scaled else one_of(settings, "normalize_activations", NORMS, config),
        feature_scale=row_norms(tensors["W_dec"]) if settings.get("rescale_acts_by_decoder_norm") else None,
    )


def _encoder(
    kind: str, tensors: Tensors, settings: Mapping[str, Any], config: Path, k: int | None
) -> tuple[Tensor, Tensor, Activation]:
    encoder_KD = tensors["W_enc"]
    if kind == "topk":
        k = k if k is not None else number(settings, "k", config, int, 1)
        return encoder_KD, tensors["b_enc"], TopK(check_k(k, len(encoder_KD)))
    no_k(k, f"SAELens {kind}")
    if kind == "gated":
        # Gate and magnitude share a matrix product: the gate opens where the pre-activation exceeds a threshold.
        magnitude_K = tensors["r_mag"].exp()
        threshold_K = tensors["b_mag"] - magnitude_K * tensors["b_gate"]
        return encoder_KD * magnitude_K[:, None], tensors["b_mag"], JumpReLU(threshold_K)
    activation = JumpReLU(tensors["threshold"]) if kind == "jumprelu" else ReLU()
    return encoder_KD, tensors["b_enc"], activation


def _current(settings: dict[str, Any], config: Path) -> dict[str, Any]:
    """Settings under the names that SAELens 6 uses.

    Raises:
        ValueError: the activation function is not known.
    """
    for name in ("activation_fn_str", "activation_fn"):
        function = one_of(settings, name, FUNCTIONS, config)
        if function == "topk" and isinstance(settings.get("activation_fn_kwargs"), dict):
            return {**settings, "architecture": "topk", "k": settings["activation_fn_kwargs"].get("k")}
    return settings


def _metadata(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the SAE was trained on. Before SAELens 6 this was part of the settings."""
    inner = settings.get("metadata")
    found = {**settings, **inner} if isinstance(inner, dict) else dict(settings)
    return {**found, "hook_name": found.get("hook_name", found.get("hook_point"))}


def _scale(path: Path) -> float:
    if not path.exists():
        raise ValueError(
            f"This SAE reads scaled activations, but the file of the scale, {path}, is missing. "
            "Fold the scale in with SAELens (fold_activation_norm_scaling_factor), and save the SAE again."
        )
    return float(number(read_config(path), "scaling_factor", path, float, 1e-9))
