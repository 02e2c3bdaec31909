"""Firing sets on disk: safetensors files, and a file that says how they were collected.

While they are collected, each 256 examples have a file of their own. At the end these are joined into one, which is
mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

At: TypeAlias = Literal["any", "last"]
"""Which tokens of a text count: any of them, or only the last."""

Shard: TypeAlias = dict[int, tuple[np.ndarray, np.ndarray]]
"""Layer → the number of features that fire on each example, and the features, one example after the other."""
Sets: TypeAlias = dict[int, tuple[np.ndarray, np.ndarray]]
"""Layer → where the features of each example begin and those of the last one end, `(E + 1,)`, and the features."""

SHARD_SIZE = 256  # examples per file; at most this many are lost when a run is killed
JOINED = "firing.safetensors"
_MANIFEST = "firing.json"
_PARTS = ("sizes", "features")
_DTYPES = {"I64": np.int64, "U32": np.uint32, "U16": np.uint16}


@dataclass(frozen=True)
class FiringSource:
    """The model, SAE and settings that firing sets were collected with.

    Args:
        model: name of the model.
        model_sha256: hash of some of its weights.
        sae: names of the SAEs.
        sae_sha256: file name → sha256 of each SAE.
        at: the tokens of a text that count.
        max_length: number of tokens of each text that are read.
        d_sae: layer → number of features.
    """

    model: str
    model_sha256: str
    sae: str
    sae_sha256: Mapping[str, str]
    at: At
    max_length: int
    d_sae: Mapping[int, int]


class FiringCache:
    """A folder of firing sets, which several processes share.

    Args:
        folder: created if it does not exist.
        source: the model, SAE and settings of this run.

    Raises:
        ValueError: the folder holds sets that were collected with another model, SAE or setting.
    """

    def __init__(self, folder: str | Path, source: FiringSource) -> None:
        self.folder = Path(folder)
        self._state = PartialState()
        self._layers = list(source.d_sae)
        manifest = self.folder / _MANIFEST
        self._source = json.loads(json.dumps(asdict(source)))
        if self._state.is_main_process and not manifest.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = manifest.with_suffix(".json.partial")
            partial.write_text(json.dumps(self._source, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(manifest)  # a killed run never leaves an incomplete file under the final name
        self._state.wait_for_everyone()
        held = json.loads(manifest.read_text(encoding="utf-8"))
        differing = [
            f"{name} was {held.get(name)!r:.80}" for name, wanted in self._source.items() if held.get(name) != wanted
        ]
        if differing:
            raise ValueError(
                f"{folder} holds firing sets of another run: {', '.join(differing)}. Name another folder, or delete "
                "this one."
            )
        self._joined: list[str] = []
        """Hash of the texts of each 256 examples that the joined file holds."""
        if (self.folder / JOINED).exists():
            self._joined = json.loads(_metadata(self.folder / JOINED)["texts_sha256"])

    def has(self, index: int, texts: Sequence[str]) -> bool:
        """Whether the firing sets of these texts have been collected.

        Raises:
            ValueError: the file holds the sets of other texts.
        """
        path = self._path(index)
        if index < len(self._joined):
            path, held = self.folder / JOINED, self._joined[index]
        elif path.exists():
            held = _metadata(path)["texts_sha256"]
        else:
            return False
        if held != _hash(texts):
            raise ValueError(
                f"{path} was collected from other texts than texts {index * SHARD_SIZE + 1} to "
                f"{index * SHARD_SIZE + len(texts)} are now. Name another folder, or delete this one."
            )
        return True

    def write(self, index: int, texts: Sequence[str], shard: Shard) -> None:
        """Write the firing sets of these texts."""
        tensors = {
            f"{layer}.{name}": one for layer, pair in shard.items() for name, one in zip(_PARTS, pair, strict=True)
        }
        path = self._path(index)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, {"texts_sha256": _hash(texts)})
        partial.replace(path)  # a killed run never leaves an incomplete file under the final name

    def sets(self, total: int, examples: int) -> Sets:
        """Wait until every process has written its files, join them, and return the sets of all texts, in order.

        Args:
            total: number of groups of 256 texts.
            examples: number of texts in them.

        Returns:
            Arrays that are mapped into memory: only the parts that are used are read.
        """
        self._state.wait_for_everyone()
        if total > len(self._joined) and self._state.is_main_process:
            self._join(total)
        self._state.wait_for_everyone()
        found = _mapped(self.folder / JOINED)
        return {
            layer: (offsets[: examples + 1], features[: offsets[examples]])
            for layer, (offsets, features) in found.items()
        }

    def _join(self, total: int) -> None:
        """Join all files into one, and remove the files of 256 examples."""
        hashes = [*self._joined, *(_metadata(self._path(n))["texts_sha256"] for n in range(len(self._joined), total))]
        path = self.folder / JOINED
        partial = path.with_suffix(".partial")
        _write_joined(
            partial,
            {
                layer: offsets_of(np.concatenate([one[layer][0] for one in self._parts(total)]))
                for layer in self._layers
            },
            lambda layer: (one[layer][1] for one in self._parts(total)),
            {"texts_sha256": json.dumps(hashes), "source": json.dumps(self._source)},
        )
        partial.replace(path)
        for index in range(total):
            self._path(index).unlink(missing_ok=True)

    def _parts(self, total: int) -> Iterator[Shard]:
        if self._joined:
            yield {
                layer: (np.diff(offsets), features)
                for layer, (offsets, features) in _mapped(self.folder / JOINED).items()
            }
        for index in range(len(self._joined), total):
            with _opened(self._path(index)) as file:
                yield {layer: tuple(file.get_tensor(f"{layer}.{name}") for name in _PARTS) for layer in self._layers}

    def _path(self, index: int) -> Path:
        return self.folder / f"firing-{index:06d}.safetensors"


def offsets_of(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """`(E + 1,)` where each example's features begin, from how many each has."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def joined(shards: Iterable[Shard]) -> Sets:
    """The sets of all examples, in memory."""
    parts = list(shards)
    return {
        layer: (
            offsets_of(np.concatenate([part[layer][0] for part in parts])),
            np.concatenate([part[layer][1] for part in parts]),
        )
        for layer in parts[0]
    }


def _write_joined(
    path: Path,
    offsets: Mapping[int, np.ndarray],
    features_of: Callable[[int], Iterator[np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """A safetensors file, written part by part: the library's own writer wants all of it in memory.

    Args:
        offsets: by layer.
        features_of: gives a layer's features, in parts.
    """
    dtypes = {layer: next(iter(features_of(layer))).dtype for layer in offsets}
    order = sorted(offsets, key=lambda layer: -dtypes[layer].itemsize)  # so that every number is aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    names = {np.dtype(kind): name for name, kind in _DTYPES.items()}
    for name, layer in [*(("offsets", layer) for layer in order), *(("features", layer) for layer in order)]:
        dtype = np.dtype(np.int64) if name == "offsets" else dtypes[layer]
        count = len(offsets[layer]) if name == "offsets" else int(offsets[layer][-1])
        start, end = end, end + count * dtype.itemsize
        header[f"{layer}.{name}"] = {"dtype": names[dtype], "shape": [count], "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for layer in order:
            offsets[layer].tofile(file)
        for layer in order:
            for part in features_of(layer):
                part.tofile(file)


def _mapped(path: Path) -> Sets:
    """The arrays of a joined file, by layer, mapped into memory."""
    with _opened(path):  # checks the file
        pass
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))

    def array(name: str) -> np.ndarray:
        told = header[name]
        if not told["shape"][0]:
            return np.empty(0, _DTYPES[told["dtype"]])
        return np.memmap(path, _DTYPES[told["dtype"]], "r", start + told["data_offsets"][0], tuple(told["shape"]))

    layers = sorted(int(name.partition(".")[0]) for name in header if name.endswith(".offsets"))
    return {layer: (array(f"{layer}.offsets"), array(f"{layer}.features")) for layer in layers}


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a file of firing sets ({error}). Delete it and run again.") from error


def _metadata(path: Path) -> dict[str, str]:
    with _opened(path) as file:
        return {"texts_sha256": "[]" if path.name == JOINED else "", **(file.metadata() or {})}


def _hash(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
