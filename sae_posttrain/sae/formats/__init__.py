"""Published SAE formats, one file each. `load_sae` picks by looking at the files."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError

from ..model import SparseAutoencoder
from . import qwen_scope


def load_sae(
    source: str | Path,
    layer: int,
    *,
    k: int | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
) -> SparseAutoencoder:
    """Load one layer's SAE from a local folder or a Hugging Face repository.

    Tensors are memory-mapped: using a few features reads a few rows. From the hub only the layer's own file is
    downloaded.

    Args:
        source: a folder, or a hub id such as `Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50`.
        layer: 0-based decoder block whose output residual the SAE reads.
        k: active features per token; taken from the name of `source` when it stands there.
        revision: branch, tag or commit of a hub repository.
        dtype: cast the weights, which reads the file whole; by default they stay as stored.

    Raises:
        FileNotFoundError: no such folder or repository, or no SAE for this layer in it.
        ValueError: a file that is damaged, of another layout, or asks to execute code; an unknown k.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_layer(str(source), layer, [path.name for path in folder.iterdir()])
        path, name = folder / qwen_scope.file_name(layer), str(folder)
    elif folder.exists():
        raise FileNotFoundError(f"{source} is a file; pass the folder that holds {qwen_scope.file_name(layer)}.")
    else:
        path, name = _download(str(source), layer, revision), str(source)
    sae = qwen_scope.load(path, layer, name, k)
    return sae if dtype is None else sae.to(dtype=dtype)


def _download(repo: str, layer: int, revision: str | None) -> Path:
    try:
        return Path(hf_hub_download(repo, qwen_scope.file_name(layer), revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        # Only after a miss is the listing worth a request: a cached file loads without any.
        if isinstance(error, RemoteEntryNotFoundError):
            _check_layer(repo, layer, _list(repo, revision))
        raise FileNotFoundError(
            f"{repo!r} is neither a local folder nor a Hugging Face repository that can be reached: {error}"
        ) from error


def _list(repo: str, revision: str | None) -> list[str]:
    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f"The files of {repo!r} could not be listed: {error}") from error


def _check_layer(source: str, layer: int, names: list[str]) -> None:
    layers = qwen_scope.layers_in(names)
    if not layers:
        raise FileNotFoundError(f"No SAE found in {source}: looked for layer0.sae.pt, layer1.sae.pt, … (Qwen-Scope).")
    if layer not in layers:
        raise FileNotFoundError(f"{source} has no SAE for layer {layer}; it has layers {_ranges(layers)}.")


def _ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
