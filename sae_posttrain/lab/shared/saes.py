"""Train TopK SAEs for the lab's model with sparsify, and save them in the format of Qwen-Scope."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from ...residual import capture
from ...sae import load_sae
from ...sae.training import fit_coders
from .documents import Reading
from .model import token_rows

# D model width, K dictionary size


def train_lab_saes(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    layers: Sequence[int],
    reading: Reading,
    d_sae: int = 1024,
    k: int = 16,
    steps: int = 100,
    seed: int = 0,
) -> Path:
    """Train one TopK SAE on each block's output. Returns the folder `SAE-Res-lab-W…-L0_…` inside `folder`.

    Raises: ValueError: the extra `train-sae` is not installed.
    """
    rows = token_rows(tokenizer, reading, 32 * steps, 96, seed + 500)
    coders = _sparse_coders(model, rows, layers, d_sae, k, seed)
    return write_saes(sae_folder(folder, d_sae, k), {layer: qwen_scope_layout(one) for layer, one in coders.items()})


def sae_folder(folder: Path, d_sae: int, k: int) -> Path:
    """The folder of a world's SAEs, named like those of Qwen-Scope."""
    return folder / f"SAE-Res-lab-W{d_sae}-L0_{k}"


def write_saes(target: Path, weights: Mapping[int, dict[str, torch.Tensor]]) -> Path:
    """Save weights by layer in Qwen-Scope's files. Returns the folder."""
    target.mkdir(parents=True, exist_ok=True)
    for layer, tensors in weights.items():
        torch.save(tensors, target / f"layer{layer}.sae.pt")
    return target


def read_saes(folder: Path, layers: Sequence[int]) -> dict[int, dict[str, torch.Tensor]]:
    """The weights by layer, in Qwen-Scope's names and shapes."""
    return {layer: torch.load(folder / f"layer{layer}.sae.pt", weights_only=True) for layer in layers}


def qwen_scope_layout(coder: Any) -> dict[str, torch.Tensor]:
    """A sparsify coder's weights in Qwen-Scope's names and shapes."""
    with torch.no_grad():
        W_enc_KD = coder.encoder.weight.float()
        return {
            "W_enc": W_enc_KD.clone(),
            "W_dec": coder.W_dec.float().T.contiguous(),
            # sparsify encodes h - b_dec and Qwen-Scope encodes h. The difference is a constant for each feature.
            "b_enc": coder.encoder.bias.float() - W_enc_KD @ coder.b_dec.float(),
            "b_dec": coder.b_dec.float().clone(),
        }


@torch.no_grad()
def unexplained_variance(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    saes: Path,
    layers: Sequence[int],
    reading: Reading,
    seed: int = 20_000,
) -> dict[int, float]:
    """Share of the residual's variance that the saved SAEs do not explain, by layer, on raw text of another seed."""
    with capture(model, layers) as residuals:
        model(input_ids=token_rows(tokenizer, reading, 64, 96, seed))
    unexplained = {}
    for layer in layers:
        residual_ND = residuals[layer].flatten(0, 1)
        sae = load_sae(saes, layer)
        error_ND = residual_ND - sae.decode(sae.encode(residual_ND))
        unexplained[layer] = float(error_ND.square().sum() / (residual_ND - residual_ND.mean(0)).square().sum())
    return unexplained


def _sparse_coders(
    model: Qwen3ForCausalLM, rows: torch.Tensor, layers: Sequence[int], d_sae: int, k: int, seed: int
) -> dict[int, Any]:
    from datasets import Dataset

    dataset = Dataset.from_dict({"input_ids": rows}).with_format("torch")
    with tempfile.TemporaryDirectory() as scratch:
        trainer = fit_coders(model, dataset, scratch, layers=layers, d_sae=d_sae, k=k, seed=seed, batch_size=32)
    return {layer: trainer.saes[f"layers.{layer}"] for layer in layers}
