"""What a model's residuals and its SAEs' features do in each group of texts: one streaming pass over all layers."""

# B batch, S sequence, N tokens, D model width, K dictionary size

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..residual import capture, decoder, inputs_device
from ..sae import SparseAutoencoder

# Pre-activations held at once, in numbers: 2**26 float32 are 256 MB, whatever the dictionary's size.
CHUNK_ELEMENTS = 2**26


@dataclass
class LayerStatistics:
    """Sums over the tokens of one group of texts, in float64, for one layer.

    Args:
        tokens: number of tokens counted.
        residual: `(D,)` sum of residuals.
        activation: `(K,)` sum of feature activations.
        firing: `(K,)` number of tokens on which each feature fires.
    """

    tokens: Tensor
    residual: Tensor
    activation: Tensor
    firing: Tensor

    @property
    def mean_residual(self) -> Tensor:
        return self.residual / self.tokens

    @property
    def mean_activation(self) -> Tensor:
        return self.activation / self.tokens


Statistics = dict[int, dict[str, LayerStatistics]]
"""layer → group → sums."""


@torch.no_grad()
def collect_statistics(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> Statistics:
    """Sum residuals and activations per group of texts, for every layer that has an SAE, in one pass of the model.

    The first position of every text is left out: it is the beginning-of-sequence token or, in models without one, the
    attention sink, whose residual is like no other. Padding is left out too. Memory does not grow with the number of
    texts. In a distributed run each process reads its share and the sums are added up over processes.

    Raises:
        ValueError: a group without texts, or whose texts are all shorter than two tokens.
    """
    empty = [group for group, members in texts.items() if not any(text.strip() for text in members)]
    if empty or not texts:
        raise ValueError(f"No texts for {', '.join(empty) or 'any language'}: every group needs at least one.")
    state = PartialState()
    sums = {layer: {group: _zeros(sae) for group in texts} for layer, sae in saes.items()}
    batches = list(_batches(texts, batch_size, state.process_index, state.num_processes))
    was_training = model.training
    model.eval()
    try:
        for group, batch in tqdm(batches, "reading texts", disable=not (progress and state.is_main_process)):
            encoded = tokenizer(
                batch, return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=max_length
            ).to(inputs_device(model))
            counted_BS = encoded["attention_mask"].bool()
            counted_BS[:, 0] = False
            with capture(model, saes) as residuals:
                # The decoder alone: the head's logits would be the largest tensor of the pass, and nobody reads them.
                decoder(model)(
                    input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], use_cache=False
                )
            for layer, residual_BSD in residuals.items():
                mask_BS = counted_BS.to(residual_BSD.device)
                _add(sums[layer][group], saes[layer], residual_BSD[mask_BS])
    finally:
        model.train(was_training)
    _reduce(sums, state)
    short = [group for group in texts if not all(sums[layer][group].tokens > 0 for layer in saes)]
    if short:
        raise ValueError(
            f"The texts for {', '.join(short)} hold no token to count: the first token of each text is left out, so "
            "give texts of at least a sentence."
        )
    return sums


def _batches(
    texts: Mapping[str, Sequence[str]], batch_size: int, rank: int, world: int
) -> Iterator[tuple[str, list[str]]]:
    """This process's batches: each of one group, its texts of similar length so that little is padding."""
    for group in texts:
        members = sorted((text for text in texts[group] if text.strip()), key=lambda text: (len(text), text))
        mine = members[rank::world]
        for start in range(0, len(mine), batch_size):
            yield group, mine[start : start + batch_size]


def _zeros(sae: SparseAutoencoder) -> LayerStatistics:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=sae.encoder.device)

    return LayerStatistics(zeros(), zeros(sae.d_model), zeros(sae.d_sae), zeros(sae.d_sae))


def _add(into: LayerStatistics, sae: SparseAutoencoder, residual_ND: Tensor) -> None:
    residual_ND = residual_ND.to(device=sae.encoder.device, dtype=sae.encoder.dtype)
    into.tokens += len(residual_ND)
    into.residual += residual_ND.sum(0, dtype=torch.float64)
    for chunk_ND in residual_ND.split(max(1, CHUNK_ELEMENTS // sae.d_sae)):
        activation_NK = sae.encode(chunk_ND)
        into.activation += activation_NK.sum(0, dtype=torch.float64)
        into.firing += (activation_NK > 0).sum(0)


def _reduce(sums: Statistics, state: PartialState) -> None:
    if state.num_processes == 1:
        return
    for groups in sums.values():
        for statistics in groups.values():
            for name, value in vars(statistics).items():
                total = reduce(value.to(state.device), reduction="sum")
                setattr(statistics, name, total.to(value.device))
