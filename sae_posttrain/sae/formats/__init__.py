"""Published SAE formats, one file each. `load_sae` recognises the format by the names of the files.

A format is a module with the members of `Format`, listed in `FORMATS`. docs/extending.md says how to add one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..catalogue import RELEASES, resolve
from ..model import SparseAutoencoder
from . import dictionary_learning, gemma_scope, gemma_scope_2, llama_scope, llamascopium, qwen_scope, saelens, sparsify
from .form import Format
from .listing import layers_in, layers_of, locate

FORMATS: tuple[Format, ...] = (
    *(qwen_scope, saelens, gemma_scope, gemma_scope_2),
    *(llama_scope, llamascopium, sparsify, dictionary_learning),
)


def load_sae(
    source: str | Path,
    layer: int,
    *,
    k: int | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
) -> SparseAutoencoder:
    """Load one layer's SAE from a local folder, a Hugging Face repository or the catalogue.

    Tensors are memory-mapped, so that using a few features reads a few rows. From the hub, only the layer's own files
    are downloaded.

    Args:
        source: one of three. A local folder. A hub id such as `Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50`, or a folder in
            a hub repository such as `google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`. Or a short name
            that `sae-posttrain sae list` prints. `{layer}` in it is replaced by the layer's number.
        layer: 0-based decoder block whose output residual the SAE reads.
        k: active features per token. Default: from the SAE's settings, or for Qwen-Scope from the name of `source`.
        revision: branch, tag or commit of a hub repository.
        dtype: convert the weights to this dtype, which reads the whole file. Default: the dtype of the file.

    Returns:
        The SAE, on the CPU.

    Raises:
        FileNotFoundError: there is no such folder or repository, or it has no SAE for this layer.
        ValueError: there are several SAEs for this layer; the file is damaged, has another layout, or would execute
            code; the SAE does not read the residual stream; or k is unknown.

    Example:
        >>> sae = load_sae("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", layer=14)
        >>> activations = sae.encode(residual)  # (..., D) to (..., K)

    Source: the module of each format names the paper and the code that define the format.
    """
    resolved, base_model = resolve(str(source), layer)
    form, weights, config = locate(resolved, layer, revision, FORMATS)
    sae = form.load(weights, config, layer, resolved, k)
    if sae.layer != layer:
        raise ValueError(
            f"{config or weights} is in the folder of layer {layer}, but its settings say layer {sae.layer}. Move it "
            "to that layer's folder, or download it again."
        )
    sae = replace(
        _in_one_dtype(sae, weights),
        source=str(source),
        file=str(weights),
        format=form.NAME,
        base_model=base_model or sae.base_model,
    )
    return sae if dtype is None else sae.to(dtype=dtype)


def available_layers(source: str | Path, *, revision: str | None = None) -> list[int]:
    """The layers for which a source has SAEs, as far as the file paths and settings show.

    Args:
        source: as for `load_sae`.
        revision: branch, tag or commit of a hub repository.

    Raises:
        FileNotFoundError: the source has no SAE.
    """
    if str(source) in RELEASES:
        return list(RELEASES[str(source)].layers)
    return (layers_of if "{layer}" in str(source) else layers_in)(str(source), revision, FORMATS)


def _in_one_dtype(sae: SparseAutoencoder, weights: Path) -> SparseAutoencoder:
    """Convert the vectors to the dtype of the matrices. Only the matrices stay memory-mapped."""
    dtype = sae.encoder.dtype
    if sae.decoder.dtype != dtype:
        raise ValueError(
            f"{weights}: the encoder has dtype {dtype}, and the decoder {sae.decoder.dtype}; expected the same."
        )
    return sae.encoder_to(dtype=dtype)
