"""Random SAEs in the layout of every published format, and what each should compute, in a few lines of arithmetic."""

# D model width, K dictionary size, N tokens

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, K, ACTIVE, LAYER = 6, 24, 5, 3
HOOK = f"blocks.{LAYER}.hook_resid_post"
Coder = Callable[[dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]


def draw(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors by name. A decoder's bias is large, so that it shows whether it is subtracted."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: 5 * one if shapes[name] == (D,) else one for name, one in tensors.items()}


def top(pre_NK: Tensor, by_NK: Tensor | None = None) -> Tensor:
    """The `ACTIVE` largest of each row, cut at zero, in scalars rather than by topk."""
    by_NK = pre_NK if by_NK is None else by_NK
    kept = torch.zeros_like(pre_NK)
    for row, (values, order) in enumerate(zip(pre_NK.tolist(), by_NK.tolist(), strict=True)):
        for feature in sorted(range(len(order)), key=order.__getitem__, reverse=True)[:ACTIVE]:
            kept[row, feature] = max(values[feature], 0.0)
    return kept


def jump(pre_NK: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where((pre_NK > threshold) & (pre_NK > 0), pre_NK, torch.zeros(()))


@dataclass(frozen=True)
class Published:
    """One kind of checkpoint.

    Args:
        folder: where in a set of SAEs it lies.
        weights: its file of weights.
        tensors: what that holds.
        code: activations and reconstruction of residuals `(N, D)`, as its publisher computes them.
        config: the name and the content of its file of settings.
    """

    folder: str
    weights: str
    tensors: dict[str, Tensor]
    code: Coder
    config: tuple[str, dict[str, Any]] | None = None
    format: str = field(default="", compare=False)

    def write(self, root: Path) -> Path:
        """The file of weights, inside `root`."""
        folder = root / self.folder
        path = folder / self.weights
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.config:
            (folder / self.config[0]).write_text(json.dumps(self.config[1]), encoding="utf-8")
        write_tensors(path, self.tensors)
        return path

    def expected(self, residual_ND: Tensor) -> tuple[Tensor, Tensor]:
        return self.code(self.tensors, residual_ND)


def at_layer(one: Published, layer: int) -> Published:
    """The same SAE, as it would be published for another layer."""

    def moved(text: str) -> str:
        return re.sub(rf'(blocks\.|layers?[._]?|L|"layer": ){LAYER}(?!\d)', rf"\g<1>{layer}", text)

    return replace(
        one,
        folder=moved(one.folder),
        weights=moved(one.weights),
        tensors={moved(name): tensor for name, tensor in one.tensors.items()},
        config=(one.config[0], json.loads(moved(json.dumps(one.config[1])))) if one.config else None,
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if path.suffix == ".pt":
        torch.save(dict(tensors), path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


# SAELens


def saelens(architecture: str, code: Coder, extra: Mapping[str, tuple[int, ...]], **settings: Any) -> Published:
    tensors = draw(W_enc=(D, K), W_dec=(K, D), b_dec=(D,), **extra)
    metadata = {"sae_lens_version": "6.54.12", "model_name": "Qwen/Qwen3-1.7B-Base", "hook_name": HOOK}
    config = {
        **{"d_in": D, "d_sae": K, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True},
        **{"normalize_activations": "none", "reshape_activations": "none", "metadata": metadata},
        **{"architecture": architecture, **settings},
    }
    return Published(HOOK, "sae_weights.safetensors", tensors, code, ("cfg.json", config), "SAELens")


def saelens_linear(t: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]


def saelens_topk(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = top(saelens_linear(t, x))
    return acts, acts @ t["W_dec"] + t["b_dec"]


def saelens_topk_rescaled(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    norm = t["W_dec"].square().sum(1).sqrt()
    acts = top(saelens_linear(t, x) * norm)
    return acts, (acts / norm) @ t["W_dec"] + t["b_dec"]


def saelens_standard(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = saelens_linear(t, x).clamp(min=0)
    return acts, acts @ t["W_dec"] + t["b_dec"]


def saelens_standard_bare(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = (x @ t["W_enc"] + t["b_enc"]).clamp(min=0)
    return acts, acts @ t["W_dec"] + t["b_dec"]


def saelens_jumprelu(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = jump(saelens_linear(t, x), t["threshold"])
    return acts, acts @ t["W_dec"] + t["b_dec"]


def saelens_gated(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    inner = (x - t["b_dec"]) @ t["W_enc"]
    acts = (inner + t["b_gate"] > 0) * (inner * t["r_mag"].exp() + t["b_mag"]).clamp(min=0)
    return acts, acts @ t["W_dec"] + t["b_dec"]


def saelens_layer_norm(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = x.mean(1, keepdim=True), x.var(1, keepdim=True).sqrt()
    acts, out = saelens_standard(t, (x - mean) / (deviation + 1e-5))
    return acts, out * deviation + mean


def saelens_constant_norm(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    factor = D**0.5 / x.square().sum(1, keepdim=True).sqrt()
    acts, out = saelens_standard(t, x * factor)
    return acts, out / factor


# The others


def gemma(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    t = {name.lower(): tensor for name, tensor in t.items()}
    acts = jump(x @ t["w_enc"] + t["b_enc"], t["threshold"])
    return acts, acts @ t["w_dec"] + t["b_dec"]


def qwen_scope(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = top(x @ t["W_enc"].T + t["b_enc"])
    return acts, acts @ t["W_dec"].T + t["b_dec"]


NORM, THRESHOLD = 1.5, 0.4


def llama_scope(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    scale, norm = D**0.5 / NORM, t["decoder.weight"].square().sum(0).sqrt()
    acts = jump((x @ t["encoder.weight"].T + t["encoder.bias"] / scale) * norm, THRESHOLD)
    return acts, acts @ (t["decoder.weight"] / norm).T + t["decoder.bias"] / scale


def llamascopium_topk(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    scale, norm = D**0.5 / NORM, t["W_D"].square().sum(1).sqrt()
    pre = scale * x @ t["W_E"] + t["b_E"]
    acts = top(pre, pre * norm)
    return acts, (acts @ t["W_D"] + t["b_D"]) / scale


def llamascopium_jumprelu(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    scale, norm = D**0.5 / NORM, t["W_D"].square().sum(1).sqrt()
    pre = scale * x @ t["W_E"] + t["b_E"]
    acts = jump(pre * norm, t["activation_function.log_jumprelu_threshold"].exp()) / norm
    return acts, (acts @ t["W_D"] + t["b_D"]) / scale


def r1_distill(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    scale = D**0.5 / NORM
    acts = jump(scale * x @ t["encoder.weight"].T + t["encoder.bias"], t["log_jumprelu_threshold"].exp())
    return acts, (acts @ t["decoder.weight"].T + t["decoder.bias"]) / scale


def sparsify(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = top((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    return acts, acts @ t["W_dec"] + t["b_dec"]


def dictionary_batch_topk(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    acts = jump((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"], t["threshold"])
    return acts, acts @ t["decoder.weight"].T + t["b_dec"]


def dictionary_standard(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    norm = t["decoder.weight"].square().sum(0).sqrt()
    acts = (((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]) * norm).clamp(min=0)
    return acts, acts @ (t["decoder.weight"] / norm).T + t["bias"]


LINEAR = {"encoder.weight": (K, D), "encoder.bias": (K,), "decoder.weight": (D, K), "decoder.bias": (D,)}
PLAIN = {"W_enc": (D, K), "W_dec": (K, D), "b_enc": (K,), "b_dec": (D,), "threshold": (K,)}
LLAMASCOPIUM = {"W_E": (D, K), "b_E": (K,), "W_D": (K, D), "b_D": (D,)}
IN_OUT = {"hook_point_in": HOOK, "hook_point_out": HOOK}
LLAMA_SCOPE = {
    **{"d_model": D, "d_sae": K, "act_fn": "jumprelu", "jump_relu_threshold": THRESHOLD, "top_k": ACTIVE},
    **{"norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": NORM, "out": NORM}, **IN_OUT},
    **{"sparsity_include_decoder_norm": True, "apply_decoder_bias_to_pre_encoder": False, "use_decoder_bias": True},
}
SPARSIFY = {"activation": "topk", "expansion_factor": 4, "num_latents": 0, "k": ACTIVE, "transcode": False, "d_in": D}


def llamascopium(code: Coder, act_fn: str, **extra: tuple[int, ...]) -> Published:
    norms = {f"dataset_average_activation_norm.{HOOK}": torch.tensor(NORM)}
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": 4, "act_fn": act_fn, "top_k": ACTIVE, **IN_OUT}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "use_decoder_bias": True}
    tensors = {**draw(**LLAMASCOPIUM, **extra), **norms}
    return Published(f"L{LAYER}R", "sae_weights.safetensors", tensors, code, ("config.json", config), "llamascopium")


def dictionary_learning(code: Coder, dict_class: str, tensors: dict[str, Tensor]) -> Published:
    trainer = {"dict_class": dict_class, "layer": LAYER, "lm_name": "Qwen/Qwen3-1.7B-Base", "k": ACTIVE}
    config = {"trainer": {**trainer, "submodule_name": f"resid_post_layer_{LAYER}"}, "buffer": {"ctx_len": 64}}
    folder = f"resid_post_layer_{LAYER}/trainer_0"
    return Published(folder, "ae.pt", tensors, code, ("config.json", config), "dictionary_learning")


PUBLISHED: dict[str, Published] = {
    "Qwen-Scope": Published(
        "",
        f"layer{LAYER}.sae.pt",
        draw(W_enc=(K, D), W_dec=(D, K), b_enc=(K,), b_dec=(D,)),
        qwen_scope,
        format="Qwen-Scope",
    ),
    "SAELens topk": saelens("topk", saelens_topk, {"b_enc": (K,)}, k=ACTIVE, rescale_acts_by_decoder_norm=False),
    "SAELens topk, rescaled": saelens(
        "topk", saelens_topk_rescaled, {"b_enc": (K,)}, k=ACTIVE, rescale_acts_by_decoder_norm=True
    ),
    "SAELens standard": saelens("standard", saelens_standard, {"b_enc": (K,)}),
    "SAELens standard, b_dec not subtracted": saelens(
        "standard", saelens_standard_bare, {"b_enc": (K,)}, apply_b_dec_to_input=False
    ),
    "SAELens jumprelu": saelens("jumprelu", saelens_jumprelu, {"b_enc": (K,), "threshold": (K,)}),
    "SAELens gated": saelens("gated", saelens_gated, {"b_gate": (K,), "b_mag": (K,), "r_mag": (K,)}),
    "SAELens layer_norm": saelens("standard", saelens_layer_norm, {"b_enc": (K,)}, normalize_activations="layer_norm"),
    "SAELens constant_norm_rescale": saelens(
        "standard", saelens_constant_norm, {"b_enc": (K,)}, normalize_activations="constant_norm_rescale"
    ),
    "Gemma Scope": Published(
        f"layer_{LAYER}/width_16k/average_l0_5", "params.npz", draw(**PLAIN), gemma, format="Gemma Scope"
    ),
    "Gemma Scope 2": Published(
        f"resid_post/layer_{LAYER}_width_16k_l0_small",
        "params.safetensors",
        draw(**{name.lower(): shape for name, shape in PLAIN.items()}),
        gemma,
        (
            "config.json",
            {
                **{"architecture": "jump_relu", "hf_hook_point_in": f"model.layers.{LAYER}.output"},
                "model_name": "google/gemma-3-1b-pt",
            },
        ),
        "Gemma Scope 2",
    ),
    "Llama Scope": Published(
        f"Llama3_1-8B-Base-L{LAYER}R-8x",
        "checkpoints/final.safetensors",
        draw(**LINEAR),
        llama_scope,
        ("hyperparams.json", LLAMA_SCOPE),
        "Llama Scope",
    ),
    "llamascopium topk": llamascopium(llamascopium_topk, "topk"),
    "llamascopium jumprelu": llamascopium(
        llamascopium_jumprelu, "jumprelu", **{"activation_function.log_jumprelu_threshold": (K,)}
    ),
    "Llama-Scope-R1-Distill": Published(
        f"800M-Slimpajama/L{LAYER}R",
        "sae_weights.safetensors",
        draw(**LINEAR, log_jumprelu_threshold=(K,)),
        r1_distill,
        (
            "config.json",
            {
                **{"act_fn": "jumprelu", "sparsity_include_decoder_norm": False, **IN_OUT},
                "dataset_average_activation_norm": {"in": NORM, "out": NORM},
            },
        ),
        "llamascopium",
    ),
    "sparsify": Published(
        f"layers.{LAYER}",
        "sae.safetensors",
        draw(**{"encoder.weight": (K, D), "encoder.bias": (K,), "W_dec": (K, D), "b_dec": (D,)}),
        sparsify,
        ("cfg.json", SPARSIFY),
        "sparsify",
    ),
    "dictionary_learning BatchTopK": dictionary_learning(
        dictionary_batch_topk,
        "BatchTopKSAE",
        {
            **draw(**{"encoder.weight": (K, D), "encoder.bias": (K,), "decoder.weight": (D, K), "b_dec": (D,)}),
            **{"k": torch.tensor(ACTIVE), "threshold": torch.tensor(THRESHOLD)},
        },
    ),
    "dictionary_learning AutoEncoder": dictionary_learning(
        dictionary_standard,
        "AutoEncoder",
        draw(**{"encoder.weight": (K, D), "encoder.bias": (K,), "decoder.weight": (D, K), "bias": (D,)}),
    ),
}
