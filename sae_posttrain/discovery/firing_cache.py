"""Firing sets on disk: safetensors files of 256 examples each, and a file that says how they were collected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

At: TypeAlias = Literal["any", "last"]
"""Which tokens of a text count: any of them, or only the last."""

Shard: TypeAlias = dict[int, tuple[np.ndarray, np.ndarray]]
"""Layer → the number of features that fire on each example, and the features, one example after the other."""

SHARD_SIZE = 256  # examples per file; at most this many are lost when a run is killed
_MANIFEST = "firing.json"
_PARTS = ("sizes", "features")


@dataclass(frozen=True)
class FiringSource:
    """The model, SAE and settings that firing sets were collected with.

    Args:
        model: name of the model.
        sae: names of the SAEs.
        sae_sha256: file name → sha256 of each SAE.
        at: the tokens of a text that count.
        max_length: number of tokens of each text that are read.
        d_sae: layer → number of features.
    """

    model: str
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
        state = PartialState()
        manifest = self.folder / _MANIFEST
        wanted = json.loads(json.dumps(asdict(source)))
        if state.is_main_process and not manifest.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            manifest.write_text(json.dumps(wanted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        state.wait_for_everyone()
        held = json.loads(manifest.read_text(encoding="utf-8"))
        differing = [f"{name} was {held.get(name)!r:.80}" for name in wanted if held.get(name) != wanted[name]]
        if differing:
            raise ValueError(
                f"{folder} holds firing sets of another run: {', '.join(differing)}. Name another folder, or delete "
                "this one."
            )

    def read(self, index: int, texts: Sequence[str]) -> Shard | None:
        """The firing sets of these texts; None if they have not been collected yet.

        Raises:
            ValueError: the file holds the sets of other texts.
        """
        path = self._path(index)
        if not path.exists():
            return None
        held, shard = self._load(path)
        if held != _hash(texts):
            raise ValueError(
                f"{path} was collected from other texts than texts {index * SHARD_SIZE + 1} to "
                f"{index * SHARD_SIZE + len(texts)} are now. Name another folder, or delete this one."
            )
        return shard

    def write(self, index: int, texts: Sequence[str], shard: Shard) -> None:
        """Write the firing sets of these texts."""
        tensors = {
            f"{layer}.{name}": one for layer, pair in shard.items() for name, one in zip(_PARTS, pair, strict=True)
        }
        path = self._path(index)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, {"texts_sha256": _hash(texts)})
        partial.replace(path)  # a killed run never leaves an incomplete file under the final name

    def shards(self, total: int) -> Iterator[Shard]:
        """All firing sets in order, after every process has written its own."""
        PartialState().wait_for_everyone()
        return (self._load(self._path(index))[1] for index in range(total))

    def _load(self, path: Path) -> tuple[str, Shard]:
        """The hash of the texts, and their firing sets."""
        try:
            with safe_open(path, "numpy") as file:
                layers = sorted({int(name.split(".")[0]) for name in file.keys()})  # noqa: SIM118
                return (file.metadata() or {}).get("texts_sha256", ""), {
                    layer: tuple(file.get_tensor(f"{layer}.{name}") for name in _PARTS) for layer in layers
                }
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is not a file of firing sets ({error}). Delete it and run again.") from error

    def _path(self, index: int) -> Path:
        return self.folder / f"firing-{index:06d}.safetensors"


def _hash(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
