"""Load SAEs that fit a model, and record what features were found with."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..bars import progress_bar
from ..feature_set import Provenance
from ..residual import text_config, unwrap
from ..sae import SparseAutoencoder, load_sae

logger = logging.getLogger(__name__)


def load_saes(
    sae: str | Path | Mapping[int, SparseAutoencoder], layers: Sequence[int], model: nn.Module
) -> dict[int, SparseAutoencoder]:
    """Load the SAE of each layer with `load_sae`, or check the given ones. Warns if an SAE names another model.

    Raises:
        ValueError: an SAE is missing, or belongs to another layer or to a model of another width.
    """
    width = text_config(model).hidden_size
    if isinstance(sae, Mapping):
        missing = [layer for layer in layers if layer not in sae]
        if missing:
            raise ValueError(f"No SAE was given for layers {missing}; those given are for {sorted(sae)}.")
        saes = {layer: sae[layer] for layer in layers}
    else:
        saes = {layer: load_sae(sae, layer) for layer in layers}
    for layer, one in saes.items():
        if one.layer != layer:
            raise ValueError(f"The SAE given for layer {layer} was trained on layer {one.layer} ({one.source}).")
        if one.d_model != width:
            raise ValueError(
                f"The SAE {one.source} (layer {layer}) reads residuals of width {one.d_model}, but the model's are "
                f"{width} wide: it was trained on another model."
            )
    if complaint := mismatch(next(iter(saes.values())), model):
        logger.warning(complaint)
    return saes


def mismatch(sae: SparseAutoencoder, model: nn.Module) -> str:
    """Say why an SAE may not belong to a model, from the two names; empty if the names agree or one is unknown."""
    name = model_name(model)
    if not sae.base_model or _known_as(sae.base_model) == _known_as(name):
        return ""
    return (
        f"The SAE {sae.source} was trained on {sae.base_model}, but the model is {name}. If this model was fine-tuned "
        "from that one, part of the features still apply; `sae-posttrain sae info SAE --check MODEL --texts FILE` "
        "measures how well. Otherwise the features mean nothing."
    )


def _known_as(name: str) -> str:
    """A model's name without its owner. Llama 3.1 was first published as Meta-Llama-3.1."""
    return PurePath(name).name.lower().removeprefix("meta-")


def model_name(model: nn.Module) -> str:
    base = unwrap(model)
    return getattr(base.config, "_name_or_path", "") or type(base).__name__


def provenance(
    model: nn.Module,
    saes: Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    selection: str,
    *,
    progress: bool = False,
) -> Provenance:
    config = text_config(model)
    return Provenance(
        base_model=model_name(model),
        d_model=config.hidden_size,
        num_layers=config.num_hidden_layers,
        sae=", ".join(dict.fromkeys(one.source for one in saes.values())),
        sae_sha256=sae_hashes(saes, progress),
        texts_sha256=_sha256_of_texts(texts),
        selection=selection,
    )


def sae_hashes(saes: Mapping[int, SparseAutoencoder], progress: bool) -> dict[str, str]:
    """File name → sha256 of each SAE that was loaded from a file."""
    files = [one for one in saes.values() if one.file]
    shown = progress and bool(files) and PartialState().is_main_process
    return {
        _file_name(one): _sha256_of_file(one.file) for one in progress_bar(files, "hashing SAEs", disable=not shown)
    }


def fingerprint(tensors: Iterable[Tensor], *further: object) -> str:
    """A sha256 of the shapes, dtypes and some values of tensors, to notice that they are others.

    Args:
        tensors: such as the parameters of a model; those without data, on the device `meta`, count by their shape.
        further: what else belongs to them, by its text.
    """
    digest = hashlib.sha256(repr([str(one) for one in further]).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta and tensor.numel():
            rows = torch.linspace(0, len(tensor) - 1, min(len(tensor), 16)).long() if tensor.ndim else ()
            values = tensor.detach()[rows].flatten()
            digest.update(values[:: max(1, len(values) // 4096)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _file_name(sae: SparseAutoencoder) -> str:
    """`layer3.sae.pt`, or `layer3/sae.safetensors` in formats that use the same file name for every layer."""
    name = Path(sae.file).name
    return name if name.startswith(f"layer{sae.layer}.") else f"layer{sae.layer}/{name}"


def _sha256_of_file(path: str) -> str:
    blob = Path(path).resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name  # the hub's cache names a large file after its hash; reading it whole would take minutes
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_texts(texts: Mapping[str, Sequence[str]]) -> str:
    digest = hashlib.sha256()
    for code in sorted(texts):
        for text in texts[code]:
            digest.update(f"{code}\0{text}\0".encode())
    return digest.hexdigest()
