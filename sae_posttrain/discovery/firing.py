"""Which features of an SAE fire on each of many texts; `sae_posttrain.data` uses it."""

# S sequence, N tokens, D model width, K dictionary size, E examples

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bars import progress_bar
from ..residual import inputs_device, read_residuals
from ..sae import SparseAutoencoder
from .firing_cache import SHARD_SIZE, At, FiringCache, FiringSource, Shard, joined, offsets_of
from .sources import fingerprint, load_saes, model_name, sae_hashes
from .statistics import CHUNK_ELEMENTS, blocks_of_layers, check_reading, encoder_room
from .tokens import first_tokens

logger = logging.getLogger(__name__)

COUNTED_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class FiringSets:
    """The features of one layer that fire on each example: a sparse `(E, K)` matrix of zeros and ones, by rows.

    Args:
        layer: 0-based decoder block.
        d_sae: K, the number of features of the SAE.
        offsets: `(E + 1,)` int64; example e fires `features[offsets[e]:offsets[e + 1]]`.
        features: indices of features, in rising order within an example.
    """

    layer: int
    d_sae: int
    offsets: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, example: int) -> np.ndarray:
        """The features that fire on one example."""
        return self.features[self.offsets[example] : self.offsets[example + 1]]

    def counts(self) -> np.ndarray:
        """`(K,)` number of examples on which each feature fires."""
        # In parts: bincount makes 8 bytes of each number, and the features may lie in a file larger than memory.
        starts = range(0, max(1, len(self.features)), COUNTED_AT_ONCE)
        parts = (self.features[start : start + COUNTED_AT_ONCE] for start in starts)
        return sum((np.bincount(part, minlength=self.d_sae) for part in parts), np.zeros(self.d_sae, np.int64))

    def take(self, examples: Sequence[int] | np.ndarray) -> FiringSets:
        """The sets of some of the examples, in the given order."""
        rows = [self[int(example)] for example in examples]
        features = np.concatenate([*rows, np.empty(0, self.features.dtype)])
        return FiringSets(self.layer, self.d_sae, offsets_of([len(row) for row in rows]), features)

    @classmethod
    def of(cls, sets: Iterable[Iterable[int]], d_sae: int, layer: int = 0) -> FiringSets:
        """Make firing sets from the features of each example.

        Example:
            >>> FiringSets.of([[3, 1], []], d_sae=8).counts()[:4]
            array([0, 1, 0, 1])

        Raises:
            ValueError: a feature's index is not in the dictionary.
        """
        rows = [np.unique(np.fromiter(one, dtype=np.int64)) for one in sets]
        for example, row in enumerate(rows):
            if len(row) and not 0 <= row[0] <= row[-1] < d_sae:
                raise ValueError(f"Example {example} fires a feature outside of 0 to {d_sae - 1}: {row.tolist()}.")
        return cls(
            layer,
            d_sae,
            offsets_of([len(row) for row in rows]),
            np.concatenate([*rows, np.empty(0, np.int64)]).astype(_kind(d_sae)),
        )


def collect_firing(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    texts: Iterable[str],
    *,
    layers: Sequence[int],
    at: At = "any",
    cache: str | Path | None = None,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> dict[int, FiringSets]:
    """Find which features fire on each text, for every layer in one pass of the model.

    A feature fires where its activation is above zero after the SAE's own activation function. For a TopK SAE this
    depends on all of its features: a pre-activation above zero is not enough. The first token of a text does not count,
    since it is the beginning-of-sequence token or the attention sink.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or an SAE for each layer.
        texts: the examples, read once and in order.
        layers: 0-based decoder blocks.
        at: `any`: a feature fires on a text if it fires on some token. `last`: only the last token counts.
        cache: a folder that keeps the sets. A second call with the same arguments reads them instead of running the
            model, and continues a run that was killed, which loses 256 examples at most. Several processes (`accelerate
            launch`) share the files. With a cache, memory does not grow with the number of texts: the sets that are
            returned lie in a file, of which only the parts that are used are read.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether a progress bar is shown.

    Returns:
        The firing sets by layer, in the order of the texts, the same on every process.

    Raises:
        ValueError: there are no texts, or the cache holds the sets of other texts, another model, SAE or setting.

    Example:
        >>> sets = collect_firing(model, tokenizer, "saes", ["Hello there.", "Bonjour."], layers=[16])
        >>> sets[16][0]  # the features that fire on the first text

    Source: arXiv:2605.11887, Eq. 2 (`last`) and Eq. 13 (`any`).
    """
    if at not in ("any", "last"):
        raise ValueError(f"at={at!r}: expected 'any' or 'last'.")
    check_reading(batch_size, max_length)
    state = PartialState()
    saes = load_saes(sae, layers, model)
    kept = None
    if cache is not None:
        names = ", ".join(dict.fromkeys(one.source for one in saes.values()))
        sizes = {layer: one.d_sae for layer, one in saes.items()}
        hashes = {**sae_hashes(saes, progress), **_fingerprints(saes)}
        weights = fingerprint(model.parameters())
        kept = FiringCache(cache, FiringSource(model_name(model), weights, names, hashes, at, max_length, sizes))
    reading = {"batch_size": batch_size, "max_length": max_length}
    mine: dict[int, Shard] = {}
    total = examples = 0
    bar = progress_bar(desc="texts", unit="text", disable=not (progress and state.is_main_process))
    with bar:
        for index, members in enumerate(_shards(texts)):
            total, examples = total + 1, examples + len(members)
            if index % state.num_processes == state.process_index:
                if kept is None:
                    mine[index] = _collect(model, tokenizer, saes, members, at, **reading)
                elif not kept.has(index, members):
                    kept.write(index, members, _collect(model, tokenizer, saes, members, at, **reading))
            bar.update(len(members))
    if not total:
        raise ValueError("No texts: firing sets need at least one.")
    sets = joined(_gathered(mine, total)) if kept is None else kept.sets(total, examples)
    return {layer: FiringSets(layer, sae.d_sae, *sets[layer]) for layer, sae in saes.items()}


def _fingerprints(saes: Mapping[int, SparseAutoencoder]) -> dict[str, str]:
    """A key for each layer → the fingerprint of its SAE, for SAEs that were not loaded from a file."""
    return {
        f"layer{layer}": fingerprint([one.encoder, one.bias, one.decoder_bias], one.activation)
        for layer, one in saes.items()
        if not one.file
    }


def _shards(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while members := list(islice(remaining, SHARD_SIZE)):
        wrong = [text for text in members if not isinstance(text, str)]
        if wrong:
            raise ValueError(f"The texts contain {wrong[0]!r:.80}; expected strings only.")
        yield members


def _collect(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    texts: Sequence[str],
    at: At,
    *,
    batch_size: int,
    max_length: int,
) -> Shard:
    encoded = first_tokens(tokenizer, texts, None)
    cut = sum(len(ids) > max_length for ids in encoded)
    if at == "last" and cut:
        logger.warning(
            "%d texts have more than %d tokens. Their last token is not read; raise max_length to read it.",
            cut,
            max_length,
        )
    sequences = [ids[:max_length] for ids in encoded]
    order = sorted((e for e, ids in enumerate(sequences) if len(ids) > 1), key=lambda e: -len(sequences[e]))
    found: dict[int, list[np.ndarray]] = {
        layer: [np.empty(0, _kind(sae.d_sae))] * len(texts) for layer, sae in saes.items()
    }
    for block in blocks_of_layers(saes, encoder_room(inputs_device(model))):
        encoders = {layer: saes[layer].encoder_to(inputs_device(model)) for layer in block}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for layer, rows in _read_batch(model, encoders, [sequences[e] for e in batch], at).items():
                for example, row in zip(batch, rows, strict=True):
                    found[layer][example] = row
    return {
        layer: (np.array([len(row) for row in rows], np.int64), np.concatenate(rows)) for layer, rows in found.items()
    }


def _read_batch(
    model: nn.Module, saes: Mapping[int, SparseAutoencoder], sequences: Sequence[Sequence[int]], at: At
) -> dict[int, list[np.ndarray]]:
    residuals, mask_BS = read_residuals(model, saes, sequences)
    counted_BS = mask_BS.bool()
    counted_BS[:, 0] = False
    if at == "last":
        counted_BS &= mask_BS.cumsum(1) == mask_BS.sum(1, keepdim=True)
    row_N = counted_BS.nonzero()[:, 0]
    return {
        layer: _firing(saes[layer], residual_BSD[counted_BS.to(residual_BSD.device)], row_N)
        for layer, residual_BSD in residuals.items()
    }


def _firing(sae: SparseAutoencoder, residual_ND: Tensor, row_N: Tensor) -> list[np.ndarray]:
    """For each row the features that fire on any of its tokens, in rising order; tokens come row by row."""
    if not torch.isfinite(residual_ND).all():
        raise ValueError(
            f"Residuals of layer {sae.layer} are not finite. Run the model in float32 or bfloat16, and check its "
            "weights."
        )
    residual_ND = residual_ND.to(sae.encoder.device)
    size = max(1, CHUNK_ELEMENTS // sae.d_sae)
    fires_BK = torch.zeros(int(row_N[-1]) + 1, sae.d_sae, dtype=torch.bool, device=residual_ND.device)
    for chunk_ND, chunk_N in zip(residual_ND.split(size), row_N.split(size), strict=True):
        fires_NK = sae.encode(chunk_ND) > 0
        rows, counts = chunk_N.unique_consecutive(return_counts=True)
        for row, part in zip(rows.tolist(), fires_NK.split(counts.tolist()), strict=True):
            fires_BK[row] |= part.any(0)
    return [fires_K.nonzero()[:, 0].cpu().numpy().astype(_kind(sae.d_sae)) for fires_K in fires_BK]


def _gathered(mine: dict[int, Shard], total: int) -> Iterator[Shard]:
    parts = {index: shard for part in gather_object([mine]) for index, shard in part.items()}
    return (parts[index] for index in range(total))


def _kind(d_sae: int) -> type:
    return np.uint16 if d_sae <= 1 << 16 else np.uint32
