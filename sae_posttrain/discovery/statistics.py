"""Sum a model's residuals and its SAEs' activations over groups of tokens, in one streaming pass for all layers."""

# B batch, S sequence, N tokens, D model width, K dictionary size

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bars import progress_bar
from ..residual import inputs_device, read_residuals
from ..sae import SparseAutoencoder
from .thresholds import TokenSample
from .tokens import first_tokens

T = TypeVar("T")

# Pre-activations held in memory at once: 2**26 float32 numbers are 256 MB, whatever the dictionary's size.
CHUNK_ELEMENTS = 2**26


@dataclass
class LayerStatistics:
    """Weighted sums over one group's tokens at one layer, in float64.

    Args:
        tokens: sum of the tokens' weights; the number of tokens if every weight is 1.
        residual: `(D,)` sum of residuals.
        activation: `(K,)` sum of feature activations.
        firing: `(K,)` sum of the weights of the tokens on which each feature fires.
    """

    tokens: Tensor
    residual: Tensor
    activation: Tensor
    firing: Tensor

    def cpu(self) -> LayerStatistics:
        return LayerStatistics(**{name: value.cpu() for name, value in vars(self).items()})

    @property
    def mean_residual(self) -> Tensor:
        return self.residual / self.tokens

    @property
    def mean_activation(self) -> Tensor:
        return self.activation / self.tokens


Statistics = dict[int, dict[str, LayerStatistics]]
"""layer → group → sums."""


@dataclass(frozen=True)
class GroupSpan:
    """The tokens `ids[start:end]` of a passage, which count towards `group` with the given weight each."""

    group: str
    start: int
    end: int
    weight: float = 1.0


@dataclass(frozen=True)
class TokenPassage:
    """Token ids that the model reads, and the spans of them that count."""

    ids: Sequence[int]
    spans: Sequence[GroupSpan]


def collect_statistics(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
    sample: TokenSample | None = None,
) -> Statistics:
    """Sum residuals and activations over groups of texts.

    The first position of every text is left out. It is the beginning-of-sequence token or, in models without one, the
    attention sink; its residual is unlike that of any other position.

    Args:
        model, tokenizer: the model and its tokenizer.
        saes: layer → SAE.
        texts: group, such as a language code → texts.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.
        progress: whether a progress bar is shown.

    Returns:
        layer → group → sums, the same on every process.

    Raises:
        ValueError: a group has no texts, or all its texts are shorter than two tokens.
    """
    _check_texts(texts)
    check_reading(batch_size, max_length)
    batches = [(group, members) for group in texts for members in share_of_process(_sorted(texts[group]), batch_size)]

    def passages() -> Iterator[list[TokenPassage]]:
        for group, members in batches:
            encoded = first_tokens(tokenizer, members, max_length)
            yield [TokenPassage(ids, [GroupSpan(group, 1, len(ids))]) for ids in encoded if ids]

    sums = sum_passages(model, saes, texts, passages, total=len(batches), progress=progress, sample=sample)
    short = [group for group in texts if not all(sums[layer][group].tokens > 0 for layer in saes)]
    if short:
        raise ValueError(
            f"The texts for {', '.join(short)} hold no token to count: the first token of each text is left out, so "
            "give texts of at least a sentence."
        )
    return sums


@torch.no_grad()
def sum_passages(
    model: nn.Module,
    saes: Mapping[int, SparseAutoencoder],
    groups: Iterable[str],
    batches: Callable[[], Iterable[Sequence[TokenPassage]]],
    *,
    total: int,
    progress: bool,
    sample: TokenSample | None = None,
) -> Statistics:
    """Sum residuals and activations per group, for every layer that has an SAE, in one pass of the model.

    Memory does not grow with the number of batches. If the encoders do not all fit beside the model on its
    accelerator, the layers are divided into blocks, with one pass for each block. Each process reads its own batches,
    and the sums are added over the processes.

    Args:
        model: the model, which may be wrapped.
        saes: layer → SAE.
        groups: the names that the spans may use.
        batches: called at the start of each pass; gives this process's batches.
        total: number of batches of a pass, for the progress bar.
        progress: whether a progress bar is shown.
        sample: is offered every token that counts; None keeps no tokens.

    Returns:
        layer → group → sums, the same on every process.

    Raises:
        ValueError: residuals or activations are not finite.
    """
    state = PartialState()
    groups = list(groups)
    sums: Statistics = {}
    for layers in blocks_of_layers(saes, encoder_room(inputs_device(model))):
        # Only the encoder is moved: a few rows of the decoder are read from the file later.
        block = {layer: saes[layer].encoder_to(inputs_device(model)) for layer in layers}
        bar = progress_bar(batches(), "reading texts", total=total, disable=not (progress and state.is_main_process))
        sums |= _sum_block(model, block, groups, bar, sample)
    _reduce(sums, state)
    for layer, of_group in sums.items():
        if not all(
            torch.isfinite(one.residual).all() and torch.isfinite(one.activation).all() for one in of_group.values()
        ):
            raise ValueError(
                f"Residuals or activations of layer {layer} are not finite. Run the model in float32 or bfloat16, and "
                "check its weights and the SAE's."
            )
    return sums


def _sum_block(
    model: nn.Module,
    saes: Mapping[int, SparseAutoencoder],
    groups: list[str],
    batches: Iterable[Sequence[TokenPassage]],
    sample: TokenSample | None,
) -> Statistics:
    """Run one pass of the model, for the layers whose encoders are given."""
    sums = {layer: {group: _zeros(sae) for group in groups} for layer, sae in saes.items()}
    for batch in filter(None, batches):
        residuals, mask_BS = read_residuals(model, saes, [passage.ids for passage in batch])
        for group, weight_BS in _weights(batch, mask_BS.shape).items():
            for layer, residual_BSD in residuals.items():
                keep = None if sample is None else partial(sample.add, layer, group)
                _add(sums[layer][group], saes[layer], residual_BSD, weight_BS, keep)
    return sums


def encoder_room(device: torch.device) -> int | None:
    """Bytes that encoders may use on a GPU: half of its free memory. None on a CPU, where they stay in their files."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else None


def blocks_of_layers(saes: Mapping[int, SparseAutoencoder], room: int | None) -> list[list[int]]:
    """Divide layers into blocks whose encoders fit into `room` bytes; a larger encoder is a block of its own."""
    blocks: list[list[int]] = [[]]
    taken = 0
    for layer, sae in saes.items():
        size = sae.encoder.nbytes
        if blocks[-1] and room is not None and taken + size > room:
            blocks.append([])
            taken = 0
        blocks[-1].append(layer)
        taken += size
    return blocks


def check_reading(batch_size: int, max_length: int) -> None:
    if batch_size < 1 or max_length < 2:
        raise ValueError(
            f"batch_size={batch_size}, max_length={max_length}: batch_size must be at least 1, max_length at least 2."
        )


def share_of_process(members: Sequence[T], batch_size: int) -> list[Sequence[T]]:
    """This process's batches. Sort the members by length first, which keeps the padding small."""
    state = PartialState()
    mine = members[state.process_index :: state.num_processes]
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]


def _sorted(texts: Sequence[str]) -> list[str]:
    return sorted((text for text in texts if text.strip()), key=lambda text: (len(text), text))


def _check_texts(texts: Mapping[str, Sequence[str]]) -> None:
    for group, members in texts.items():
        if isinstance(members, str) or not isinstance(members, Sequence):
            raise ValueError(f"Texts for {group} are a {type(members).__name__}; expected a list of strings.")
        wrong = [text for text in members if not isinstance(text, str)]
        if wrong:
            raise ValueError(f"Texts for {group} contain {wrong[0]!r}; expected strings only.")
    empty = [group for group, members in texts.items() if not any(text.strip() for text in members)]
    if empty or not texts:
        raise ValueError(f"No texts for {', '.join(empty) or 'any language'}: every group needs at least one.")


def _zeros(sae: SparseAutoencoder) -> LayerStatistics:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=sae.encoder.device)

    return LayerStatistics(zeros(), zeros(sae.d_model), zeros(sae.d_sae), zeros(sae.d_sae))


def _weights(batch: Sequence[TokenPassage], shape: torch.Size) -> dict[str, Tensor]:
    """Group → `(B, S)` weight of each token, zero where it does not count."""
    weights: dict[str, Tensor] = {}
    for row, passage in enumerate(batch):
        for span in passage.spans:
            weights.setdefault(span.group, torch.zeros(shape))[row, span.start : span.end] = span.weight
    return weights


def _add(
    into: LayerStatistics,
    sae: SparseAutoencoder,
    residual_BSD: Tensor,
    weight_BS: Tensor,
    keep: Callable[[Tensor, Tensor], None] | None,
) -> None:
    weight_BS = weight_BS.to(residual_BSD.device)
    counted_BS = weight_BS > 0
    residual_ND = residual_BSD[counted_BS].to(sae.encoder.device)
    weight_N1 = weight_BS[counted_BS].to(sae.encoder.device)[:, None]
    into.tokens += weight_N1.sum(dtype=torch.float64)
    into.residual += (residual_ND * weight_N1).sum(0, dtype=torch.float64)
    size = max(1, CHUNK_ELEMENTS // sae.d_sae)
    for chunk_ND, chunk_N1 in zip(residual_ND.split(size), weight_N1.split(size), strict=True):
        activation_NK = sae.encode(chunk_ND).float()
        # Matrix products instead of sums: a float64 sum over N would first copy the whole chunk, which takes longer
        # than computing the pre-activations. Only the sum of each chunk is kept in float64.
        into.activation += (chunk_N1.T @ activation_NK)[0]
        fires_NK = activation_NK.gt_(0)  # in place: nobody else holds it
        into.firing += (chunk_N1.T @ fires_NK)[0]
        if keep is not None and sae.activation.cutoff(()) is None:
            keep(chunk_ND, fires_NK)


def _reduce(sums: Statistics, state: PartialState) -> None:
    if state.num_processes == 1:
        return
    for groups in sums.values():
        for statistics in groups.values():
            for name, value in vars(statistics).items():
                total = reduce(value.to(state.device), reduction="sum")
                setattr(statistics, name, total.to(value.device))
