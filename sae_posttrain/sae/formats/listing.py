"""Find the files of a layer's SAE in a source, and download only the files that are needed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..catalogue import RELEASES
from .form import Format
from .found import Found

DEPTH = 4  # levels of folders below the source; no published layout has more
MAX_NAMES = 200_000
MAX_CONFIGS = 200


@dataclass(frozen=True)
class Listing:
    """The names of a source's files, and a function that downloads one of them if necessary."""

    source: str
    names: Sequence[str]
    fetch: Callable[[str], Path]

    def present(self, formats: Sequence[Format]) -> list[tuple[Format, Found]]:
        """Every SAE of a known format.

        Raises:
            FileNotFoundError: there is none.
        """
        found = [(form, one) for form in formats for one in form.find(self.names, self.source)]
        if not found:
            looked_for = "; ".join(f"{form.FILES} ({form.NAME})" for form in formats)
            raise FileNotFoundError(f"No SAE found in {self.source}: looked for {looked_for}.")
        return found


def locate(
    source: str, layer: int, revision: str | None, formats: Sequence[Format]
) -> tuple[Format, Path, Path | None]:
    """The format, the file of weights and the file of settings of a layer's SAE.

    Raises:
        FileNotFoundError: there is no SAE for the layer.
        ValueError: there are several.
    """
    listing = _list(source, revision)
    form, found = _choose(listing, layer, formats)
    if found.beside:
        listing.fetch(found.beside)
    return form, listing.fetch(found.weights), listing.fetch(found.config) if found.config else None


def layers_in(source: str, revision: str | None, formats: Sequence[Format]) -> list[int]:
    """The layers for which a source has SAEs, as far as the file paths and settings show.

    Raises:
        FileNotFoundError: the source has no SAE.
    """
    listing = _list(source, revision)
    present = listing.present(formats)
    return sorted({layer for layer in _layers(listing, present).values() if layer is not None})


def layers_of(pattern: str, revision: str | None, formats: Sequence[Format]) -> list[int]:
    """The layers that `{layer}` in a source may be replaced by; empty if it is part of a repository's name.

    Raises:
        FileNotFoundError: the source has no SAE.
    """
    folder, slash, _ = pattern.partition("{layer}")[0].rpartition("/")
    if "/" not in folder and not Path(folder or slash).expanduser().is_dir():
        return []
    inner = re.escape(pattern.rstrip("/").removeprefix(folder + slash)).replace(re.escape("{layer}"), r"(\d+)", 1)
    inner = inner.replace(re.escape("{layer}"), r"\1")
    present = _list(folder or slash or ".", revision).present(formats)
    return sorted({int(match[1]) for _, found in present if (match := re.match(f"{inner}/", found.weights))})


def _list(source: str, revision: str | None) -> Listing:
    folder = Path(os.path.expanduser(source))  # keeps `~name` of an unknown user, which Path.expanduser rejects
    if folder.is_dir():
        return _list_folder(source, folder)
    if folder.exists():
        raise FileNotFoundError(f"{source} is a file; pass the folder that contains it.")
    return _list_hub(source, revision)


def _list_folder(source: str, folder: Path) -> Listing:
    return Listing(source, list(islice(_names_in(folder), MAX_NAMES)), folder.joinpath)


def _names_in(folder: Path) -> Iterator[str]:
    """The paths of all files in a folder and its subfolders, relative to it."""
    for parent, folders, files in os.walk(folder, followlinks=True):  # DEPTH stops a loop of links
        inner = Path(parent).relative_to(folder)
        folders[:] = sorted(folders) if len(inner.parts) < DEPTH else []
        yield from ((inner / name).as_posix() for name in sorted(files))


def _list_hub(source: str, revision: str | None) -> Listing:
    repo, inner = "/".join(source.split("/")[:2]), "/".join(source.split("/")[2:])

    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(repo, f"{inner}/{name}" if inner else name, revision=revision))
        except (HfHubHTTPError, OSError) as error:
            raise FileNotFoundError(f"{repo} lists {name}, but the download failed ({error}); try again.") from error

    try:
        names = [file.rfilename for file in HfApi().model_info(repo, revision=revision).siblings or ()]
    except Exception as error:  # without a network, the error's type depends on the version of huggingface_hub
        if cached := _cached(repo, revision):  # files that were downloaded before are still available
            return _list_folder(source, cached / inner)
        raise FileNotFoundError(
            f"{source!r} is neither a local folder nor a Hugging Face repository that can be reached, nor a name that "
            f"`sae-posttrain sae list` shows{_nearest(source)}: {error}"
        ) from error
    within = [name.removeprefix(f"{inner}/") for name in names if not inner or name.startswith(f"{inner}/")]
    return Listing(source, within, fetch)


def _nearest(source: str) -> str:
    """A suggestion: the short name that is most similar to the source."""
    near = [] if "/" in source else get_close_matches(source.lower(), RELEASES, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _cached(repo: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, OSError):
        return None


def _choose(listing: Listing, layer: int, formats: Sequence[Format]) -> tuple[Format, Found]:
    """The one SAE of the layer in a listing."""
    present = listing.present(formats)
    layers = {found: found.layer for _, found in present}
    if layer not in layers.values():
        layers = _layers(listing, present)
    fitting = [(form, found) for form, found in present if layers[found] == layer]
    if len(present) == 1 and not _says_layer(*present[0]):
        fitting = present  # neither the path nor the settings show the layer, so the user's number is accepted
    if not fitting:
        known = sorted({number for number in layers.values() if number is not None})
        raise FileNotFoundError(
            f"{listing.source} has no SAE for layer {layer}; it has layers {ranges(known) or 'unknown'}."
        )
    if len(fitting) > 1:
        listed = ", ".join(f"{found.weights} ({form.NAME})" for form, found in fitting[:12])
        raise ValueError(
            f"{listing.source} has {len(fitting)} SAEs for layer {layer}; add the folder of one of them to the "
            f"source: {listed}{', …' if len(fitting) > 12 else ''}."
        )
    return fitting[0]


def _layers(listing: Listing, present: Sequence[tuple[Format, Found]]) -> dict[Found, int | None]:
    """The layer of each SAE, from its path, or else from its settings, which are downloaded for this."""
    unsaid = [(form, found) for form, found in present if found.layer is None][:MAX_CONFIGS]
    said: dict[Found, int | None] = {found: found.layer for _, found in present}
    return said | {found: _layer_in_config(form, found, listing.fetch, len(present) == 1) for form, found in unsaid}


def _says_layer(form: Format, found: Found) -> bool:
    return found.layer is not None or form.layer_of is not None


def _layer_in_config(form: Format, found: Found, fetch: Callable[[str], Path], alone: bool) -> int | None:
    """The layer in the settings; None if there is none, or if one of several SAEs does not read the residual."""
    if form.layer_of is None or not found.config:
        return None
    try:
        return form.layer_of(fetch(found.config))
    except ValueError:
        if alone:
            raise
        return None


def ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
