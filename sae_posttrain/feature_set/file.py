"""The file of a feature set: what is written into it, where it is looked for, and how it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from ..artefacts import FEATURE_SET_METADATA
from .checks import BY_GROUP, OPTIONAL, TENSORS
from .layer import LayerFeatures

if TYPE_CHECKING:
    from . import FeatureSet, Provenance

FORMAT = 1
FILE_NAME = "features.safetensors"


def file_bytes(features: FeatureSet) -> bytes:
    """The content of the file of a feature set; equal sets give equal bytes."""
    tensors = {}
    for layer in features.layers:
        for name in (*TENSORS, *_measured(layer)):
            tensors[f"{layer.layer}.{name}"] = _own(getattr(layer, name))
        for name in BY_GROUP:
            for code, values in getattr(layer, name).items():
                tensors[f"{layer.layer}.{name}.{code}"] = _own(values)
    description: dict[str, Any] = {
        "format": FORMAT,
        "provenance": asdict(features.provenance),
        "layers": [_entry(layer) for layer in features.layers],
    }
    if features.alpha is not None:
        description["alpha"] = features.alpha
    # One key: safetensors keeps no order among several, and equal sets should be equal files.
    return serialise(tensors, metadata={FEATURE_SET_METADATA: json.dumps(description, sort_keys=True)})


def read_file(path: Path) -> tuple[tuple[LayerFeatures, ...], Provenance, Any]:
    """The layers, the provenance, and alpha, of a file that `file_bytes` made.

    Raises:
        ValueError: not a feature set, damaged, or written by a newer version.
    """
    from . import Provenance  # here, because that module imports this one

    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[FEATURE_SET_METADATA])
            if description["format"] != FORMAT:
                raise ValueError(
                    f"{path} has feature-set format {description['format']}; this version reads {FORMAT}. "
                    "Upgrade sae-posttrain, or discover the features again."
                )
            layers = tuple(_read_layer(file, entry) for entry in description["layers"])
        known = {field.name for field in fields(Provenance)}
        provenance = Provenance(**{k: v for k, v in description["provenance"].items() if k in known})
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a feature set, or is damaged ({type(error).__name__}: {error}). Expected a file "
            "written by `sae-posttrain discover` or FeatureSet.save; in a git clone run `git lfs pull` first."
        ) from error
    return layers, provenance, description.get("alpha")


def find_feature_file(source: str | Path, revision: str | None) -> Path:
    """The file of a feature set: a path, in a folder, or downloaded from the hub.

    Raises:
        FileNotFoundError: neither a file nor a repository that can be reached.
    """
    path = Path(os.path.expanduser(source))  # leaves as it is what Path.expanduser refuses: a user unknown here
    if path.is_dir():
        path = path / FILE_NAME
    if path.is_file():
        return path
    if path.suffix == ".safetensors":
        raise FileNotFoundError(f"There is no feature set at {path}; `sae-posttrain discover` writes one.")
    try:
        return Path(hf_hub_download(str(source), FILE_NAME, revision=revision))
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{str(source)!r} is neither a file nor a Hugging Face repository with {FILE_NAME}: {error}"
        ) from error


def _own(values: Tensor) -> Tensor:
    """A copy in memory of its own: safetensors refuses tensors that share it, such as tied encoders and directions."""
    return values.detach().clone().float().contiguous()


def _measured(layer: LayerFeatures) -> list[str]:
    """Which of the optional tensors a layer has."""
    return [name for name in OPTIONAL if getattr(layer, name) is not None]


def _entry(layer: LayerFeatures) -> dict[str, Any]:
    """What the file says of a layer beside its tensors. What is not there is not named, as in files written before."""
    entry = {"layer": layer.layer, "ids": layer.ids, "targets": layer.targets, "languages": sorted(layer.baselines)}
    if layer.activations.keys() != layer.baselines.keys():
        entry["activations"] = sorted(layer.activations)
    if _measured(layer):
        entry["measured"] = _measured(layer)
    return entry


def _read_layer(file: Any, entry: Mapping[str, Any]) -> LayerFeatures:
    layer = entry["layer"]
    optional = [name for name in entry.get("measured", ()) if name in OPTIONAL]
    read: dict[str, Any] = {name: file.get_tensor(f"{layer}.{name}") for name in (*TENSORS, *optional)}
    groups = {"baselines": entry["languages"], "activations": entry.get("activations", entry["languages"])}
    for name, named in groups.items():
        read[name] = {group: file.get_tensor(f"{layer}.{name}.{group}") for group in named}
    return LayerFeatures(layer=layer, ids=tuple(entry["ids"]), targets=tuple(entry["targets"]), **read)
