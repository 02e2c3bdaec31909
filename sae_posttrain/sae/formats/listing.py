"""From a source and a layer to files on this machine: look at what is there, and fetch only what is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .found import Found

DEPTH = 4  # folders below the source; no published layout lies deeper
MAX_NAMES = 200_000
MAX_CONFIGS = 200

Located = tuple[ModuleType, Path, Path | None]


def locate(source: str, layer: int, revision: str | None, formats: Sequence[ModuleType]) -> Located:
    """The format, the file of weights and the file of settings of a layer's SAE.

    Raises: FileNotFoundError when there is none; ValueError when there are several.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _in_folder(source, folder, layer, formats)
    if folder.exists():
        raise FileNotFoundError(f"{source} is a file; pass the folder that holds it.")
    return _on_hub(source, layer, revision, formats)


def _in_folder(source: str, folder: Path, layer: int, formats: Sequence[ModuleType]) -> Located:
    form, found = _choose(source, layer, list(islice(_names_in(folder), MAX_NAMES)), formats, folder.joinpath)
    return form, folder / found.weights, folder / found.config if found.config else None


def _names_in(folder: Path) -> Iterator[str]:
    """Paths of the files in a folder and below, relative to it."""
    for parent, folders, files in os.walk(folder):
        inner = Path(parent).relative_to(folder)
        folders[:] = sorted(folders) if len(inner.parts) < DEPTH else []
        yield from ((inner / name).as_posix() for name in sorted(files))


def _on_hub(source: str, layer: int, revision: str | None, formats: Sequence[ModuleType]) -> Located:
    repo, inner = "/".join(source.split("/")[:2]), "/".join(source.split("/")[2:])

    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(repo, f"{inner}/{name}" if inner else name, revision=revision))
        except (HfHubHTTPError, OSError) as error:
            raise FileNotFoundError(f"{repo} lists {name} but did not give it ({error}); try again.") from error

    try:
        names = HfApi().list_repo_files(repo, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if cached := _cached(repo, revision):  # without a network, what was downloaded before is there all the same
            return _in_folder(source, cached / inner, layer, formats)
        raise FileNotFoundError(
            f"{source!r} is neither a local folder nor a Hugging Face repository that can be reached, nor a name that "
            f"`sae-posttrain sae list` shows: {error}"
        ) from error
    within = [name.removeprefix(f"{inner}/") for name in names if not inner or name.startswith(f"{inner}/")]
    form, found = _choose(source, layer, within, formats, fetch)
    return form, fetch(found.weights), fetch(found.config) if found.config else None


def _cached(repo: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, OSError):
        return None


def _choose(
    source: str,
    layer: int,
    names: Sequence[str],
    formats: Sequence[ModuleType],
    fetch: Callable[[str], Path],
) -> tuple[ModuleType, Found]:
    """The one SAE of the layer in a listing."""
    present = [(form, found) for form in formats for found in form.find(names, source)]
    if not present:
        looked_for = "; ".join(f"{form.FILES} ({form.NAME})" for form in formats)
        raise FileNotFoundError(f"No SAE found in {source}: looked for {looked_for}.")
    unknown = [one for one in present if one[1].layer is None]
    layers = {found: found.layer for _, found in present}
    if layer not in layers.values():
        layers |= {
            found: _layer_in_config(form, found, fetch, len(present) == 1) for form, found in unknown[:MAX_CONFIGS]
        }
    # Where neither the path nor the settings say the layer, whoever asks for it knows.
    fitting = [(form, found) for form, found in present if layers[found] == layer or not _says_layer(form, found)]
    if not fitting:
        known = sorted({number for number in layers.values() if number is not None})
        raise FileNotFoundError(f"{source} has no SAE for layer {layer}; it has layers {_ranges(known) or 'unknown'}.")
    if len(fitting) > 1:
        listed = ", ".join(f"{found.weights} ({form.NAME})" for form, found in fitting[:12])
        raise ValueError(
            f"{source} holds {len(fitting)} SAEs for layer {layer}; add the folder of one of them to the source: "
            f"{listed}{', …' if len(fitting) > 12 else ''}"
        )
    return fitting[0]


def _says_layer(form: ModuleType, found: Found) -> bool:
    return found.layer is not None or hasattr(form, "layer_of")


def _layer_in_config(form: ModuleType, found: Found, fetch: Callable[[str], Path], alone: bool) -> int | None:
    """What the settings say; of one SAE among many that reads something else, nothing."""
    if not _says_layer(form, found) or not found.config:
        return None
    try:
        return form.layer_of(fetch(found.config))
    except ValueError:
        if alone:
            raise
        return None


def _ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
