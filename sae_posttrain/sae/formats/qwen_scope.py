"""Qwen-Scope: `layer{n}.sae.pt`, a dict of `W_enc (K, D)`, `W_dec (D, K)`, `b_enc (K,)`, `b_dec (D,)`; top-k.

`pre = h @ W_enc.T + b_enc`, without subtracting `b_dec` and without scaling. k stands only in the repository's
name, as `…-L0_50`. Source: Qwen-Scope, arXiv:2605.11887, and the model cards of its repositories.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from ..model import SparseAutoencoder, TopK

NAME = "Qwen-Scope"
KEYS = ("W_enc", "W_dec", "b_enc", "b_dec")


def file_name(layer: int) -> str:
    return f"layer{layer}.sae.pt"


def layers_in(names: list[str]) -> list[int]:
    """The layers for which a listing of file names holds an SAE in this format."""
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"layer(\d+)\.sae\.pt", name)))


def load(path: Path, layer: int, source: str, k: int | None) -> SparseAutoencoder:
    """Map one layer's file into memory; nothing is read before it is used.

    Raises:
        ValueError: the file is truncated, holds other keys or shapes, or asks to execute code; or k is unknown.
    """
    k = k if k is not None else _k_from_name(source)
    tensors = _read(path)
    d_sae, d_model = tensors["W_enc"].shape
    expected = {"W_enc": (d_sae, d_model), "W_dec": (d_model, d_sae), "b_enc": (d_sae,), "b_dec": (d_model,)}
    for key, shape in expected.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(
                f"{path}: {key} has shape {tuple(tensors[key].shape)}, but {shape} was expected from W_enc "
                f"{(d_sae, d_model)}. The file is not in the Qwen-Scope layout."
            )
    if not 1 <= k <= d_sae:
        raise ValueError(f"k={k} does not fit a dictionary of {d_sae} features; pass the k the SAE was trained with.")
    return SparseAutoencoder(
        encoder=tensors["W_enc"],
        bias=tensors["b_enc"],
        decoder=tensors["W_dec"].T,
        decoder_bias=tensors["b_dec"],
        activation=TopK(k),
        layer=layer,
        source=source,
        file=str(path),
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


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: it holds something other than tensors, and loading it could run code. "
            f"Get the file again from its publisher. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete PyTorch file ({str(error).splitlines()[0] if str(error) else error!r}); "
            "download it again."
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensors.get(key), Tensor) for key in KEYS):
        found = sorted(map(str, tensors)) if isinstance(tensors, dict) else type(tensors).__name__
        raise ValueError(f"{path} holds {found}, but a Qwen-Scope file holds the tensors {list(KEYS)}.")
    if tensors["W_enc"].dim() != 2:
        raise ValueError(f"{path}: W_enc has shape {tuple(tensors['W_enc'].shape)}, expected (dictionary, width).")
    return tensors
