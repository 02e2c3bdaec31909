"""Read labelled texts with a model and several SAEs in one pass, and keep what was read."""

# E examples, S sequence, D model width, K dictionary size

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.residual import read_residuals
from sae_posttrain.sae import SparseAutoencoder, load_sae
from sae_posttrain.texts import load_rows

POSITIVE = "toxic"
SHARD = 128  # texts; what is lost when a run is killed

SAEs = Mapping[str, Mapping[int, SparseAutoencoder]]
"""Name of a folder of SAEs → layer → SAE."""


@dataclass(frozen=True)
class ReadSet:
    """The texts of one set, whether each is toxic, and what the model and one folder of SAEs make of them.

    Args:
        positive_E: whether each text is toxic.
        firing: layer → which features fire on each text.
        peaks: layer → the largest activation of each feature in `firing`, in the same order.
        residuals: layer → `(E, D)` mean residuals.
    """

    texts: list[str]
    positive_E: NDArray[np.bool_]
    firing: Mapping[int, FiringSets]
    peaks: Mapping[int, NDArray[np.float32]]
    residuals: Mapping[int, NDArray[np.float32]]

    def take(self, chosen_E: NDArray[np.bool_]) -> ReadSet:
        """Some of the texts."""
        members = np.flatnonzero(chosen_E)
        return ReadSet(
            [self.texts[e] for e in members],
            self.positive_E[members],
            {layer: sets.take(members) for layer, sets in self.firing.items()},
            {
                layer: self.peaks[layer][np.repeat(chosen_E, np.diff(sets.offsets))]
                for layer, sets in self.firing.items()
            },
            {layer: residual_ED[members] for layer, residual_ED in self.residuals.items()},
        )


def load_saes(folders: Sequence[str], layers: Sequence[int]) -> SAEs:
    """The SAEs of each folder, by the folder's name.

    Args:
        folders: folders, each perhaps followed by its layers, as in `saes:6,11`.
        layers: the layers of folders that name none.
    """
    found = {}
    for given in folders:
        folder, _, own = given.partition(":")
        found[Path(folder).name] = {
            layer: load_sae(folder, layer) for layer in map(int, own.split(",") if own else layers)
        }
    if len(found) < len(folders):
        raise ValueError(f"--sae {' '.join(folders)}: the folders need different names.")
    return found


def is_positive(label: str) -> bool:
    """The sets write `toxic` and `clean`, or `Toxic` and `Not Toxic`."""
    return label.strip().lower() == POSITIVE


def sample(rows: Sequence[Mapping[str, Any]], number: int) -> list[tuple[str, bool]]:
    """Texts in a fixed random order, by turns toxic and not. A smaller number is the beginning of a larger one."""
    by_label: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        by_label[is_positive(str(row["label"]))].append(str(row["text"]))
    for texts in by_label.values():
        random.Random(0).shuffle(texts)
    pairs = list(zip(*(by_label[label] for label in (True, False)), strict=False))[: number // 2]
    return [(text, label) for pair in pairs for text, label in zip(pair, (True, False), strict=True)]


@dataclass
class Reader:
    """Reads sets of texts. The model is loaded only if something was not read before."""

    model: str
    saes: SAEs
    folder: Path
    batch_size: int
    max_length: int

    def __post_init__(self) -> None:
        self._loaded: tuple[Any, Any] | None = None

    def read(self, name: str, file: str, number: int) -> dict[str, ReadSet]:
        """Read a set with the model, or what an earlier call kept of it: one `ReadSet` for each folder of SAEs."""
        rows = sample(load_rows(file), number)
        texts = [text for text, _ in rows]
        parts = []
        for start in range(0, len(texts), SHARD):
            parts.append(self._shard(name, start, texts[start : start + SHARD]))
            print(f"{name}: read {min(start + SHARD, len(texts))} of {len(texts)} texts", flush=True)
        positive_E = np.array([label for _, label in rows])
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "texts"}
        found = {}
        for source, saes in self.saes.items():
            firing, peaks, residuals = {}, {}, {}
            for layer, sae in saes.items():
                offsets = np.concatenate([[0], joined[f"sizes-{source}-{layer}"].cumsum()])
                firing[layer] = FiringSets(layer, sae.d_sae, offsets, joined[f"features-{source}-{layer}"])
                peaks[layer] = joined[f"peaks-{source}-{layer}"].astype(np.float32)
                residuals[layer] = joined[f"mean-{layer}"]
            found[source] = ReadSet(texts, positive_E, firing, peaks, residuals)
        return found

    def _shard(self, name: str, start: int, texts: Sequence[str]) -> dict[str, Any]:
        kept = self.folder / name / f"{start:06d}.npz"
        sources = [f"{source} {sorted(saes)}" for source, saes in self.saes.items()]
        key = hashlib.sha256("\0".join([self.model, *sources, str(self.max_length), *texts]).encode()).hexdigest()
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            self._loaded = self._loaded or load(self.model)
            found: dict[str, Any] = read_texts(*self._loaded, self.saes, texts, self.batch_size, self.max_length)
            partial = kept.with_suffix(".partial.npz")
            np.savez(partial, texts=key, **found)
            partial.replace(kept)  # a killed run never leaves an incomplete file under the final name
        with np.load(kept) as arrays:
            if str(arrays["texts"]) != key:
                raise ValueError(f"{kept} is of other texts, or of another model or SAE. Name another output folder.")
            return dict(arrays)


def load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)


def read_texts(
    model: Any, tokenizer: Any, saes: SAEs, texts: Sequence[str], batch_size: int, max_length: int
) -> dict[str, NDArray[Any]]:
    """What `collect_firing` and `mean_residuals` give, and the peak of each feature, in one pass for all SAEs."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    order = sorted((e for e, ids in enumerate(encoded) if len(ids) > 1), key=lambda e: -len(encoded[e]))
    places = [(source, layer) for source, own in saes.items() for layer in own]
    peaks: dict[tuple[str, int], list[tuple[NDArray[Any], NDArray[Any]]]] = {
        place: [(np.empty(0, np.uint32), np.empty(0, np.float16))] * len(texts) for place in places
    }
    widths = {layer: sae.d_model for own in saes.values() for layer, sae in own.items()}
    found: dict[str, NDArray[Any]] = {
        f"mean-{layer}": np.zeros((len(texts), width), np.float32) for layer, width in widths.items()
    }
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        residuals, _ = read_residuals(model, widths, [encoded[e] for e in batch])
        for layer, residual_BSD in residuals.items():
            for row, e in enumerate(batch):
                own_SD = residual_BSD[row, 1 : len(encoded[e])]
                found[f"mean-{layer}"][e] = own_SD.float().mean(0).numpy()
                for source in (source for source, one in places if one == layer):
                    peak_K = saes[source][layer].encode(own_SD).amax(0).float()
                    fires = (peak_K > 0).nonzero()[:, 0]
                    # A peak below float16's smallest number must not become 0: the feature fires.
                    kept = peak_K[fires].clamp(6e-8, 6e4).numpy().astype(np.float16)
                    peaks[source, layer][e] = (fires.numpy().astype(np.uint32), kept)
    for (source, layer), rows in peaks.items():
        found[f"sizes-{source}-{layer}"] = np.array([len(features) for features, _ in rows], np.int64)
        found[f"features-{source}-{layer}"] = np.concatenate([features for features, _ in rows])
        found[f"peaks-{source}-{layer}"] = np.concatenate([one for _, one in rows])
    return found
