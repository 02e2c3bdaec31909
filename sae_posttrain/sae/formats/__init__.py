"""Published SAE formats, one file each. `load_sae` picks by looking at the files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError

from ..model import SparseAutoencoder
from . import qwen_scope

# Each module has NAME, file_name(layer), layers_in(names) and load(path, layer, source, k).
FORMATS: tuple[ModuleType, ...] = (qwen_scope,)


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
        form = _format_of(str(source), layer, [path.name for path in folder.iterdir()])
        path = folder / form.file_name(layer)
    elif folder.exists():
        raise FileNotFoundError(f"{source} is a file; pass the folder that holds it.")
    else:
        form, path = _download(str(source), layer, revision)
    sae = form.load(path, layer, str(source), k)
    return sae if dtype is None else sae.to(dtype=dtype)


def _format_of(source: str, layer: int, names: list[str]) -> ModuleType:
    """The format whose files stand in a listing."""
    for form in FORMATS:
        if layers := form.layers_in(names):
            if layer in layers:
                return form
            raise FileNotFoundError(f"{source} has no SAE for layer {layer}; it has layers {_ranges(layers)}.")
    looked_for = "; ".join(f"{form.file_name(0)}, {form.file_name(1)}, … ({form.NAME})" for form in FORMATS)
    raise FileNotFoundError(f"No SAE found in {source}: looked for {looked_for}.")


def _download(repo: str, layer: int, revision: str | None) -> tuple[ModuleType, Path]:
    try:
        for form in FORMATS:
            try:
                return form, Path(hf_hub_download(repo, form.file_name(layer), revision=revision))
            except RemoteEntryNotFoundError:
                continue
        # Only after a miss is the listing worth a request: a cached file loads without any.
        names = HfApi().list_repo_files(repo, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{repo!r} is neither a local folder nor a Hugging Face repository that can be reached: {error}"
        ) from error
    form = _format_of(repo, layer, names)
    raise FileNotFoundError(f"{repo} lists {form.file_name(layer)} but did not give it; try again.")


def _ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
