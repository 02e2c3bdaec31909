"""What a model's residuals and its SAEs' features do in each group of texts: one streaming pass over all layers."""

# B batch, S sequence, N tokens, D model width, K dictionary size

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
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
    _check_texts(texts, batch_size, max_length)
    state = PartialState()
    device = inputs_device(model)
    # Only what encoding needs: a decoder is as large again, and a few of its rows are read later, from the file.
    saes = {n: replace(one, encoder=one.encoder.to(device), bias=one.bias.to(device)) for n, one in saes.items()}
    sums = {layer: {group: _zeros(sae) for group in texts} for layer, sae in saes.items()}
    batches = list(_batches(texts, batch_size, state.process_index, state.num_processes))
    was_training = model.training
    model.eval()
    try:
        for group, batch in tqdm(batches, "reading texts", disable=not (progress and state.is_main_process)):
            # Padded here: base models' tokenizers may have no padding token, and a masked position may hold any.
            encoded = tokenizer(batch, truncation=True, max_length=max_length)["input_ids"]
            rows = [torch.tensor(ids) for ids in encoded if ids]
            if not rows:
                continue
            ids_BS = pad_sequence(rows, batch_first=True).to(device)
            mask_BS = pad_sequence([torch.ones_like(ids) for ids in rows], batch_first=True).to(device)
            counted_BS = mask_BS.bool()
            counted_BS[:, 0] = False
            with capture(model, saes) as residuals:
                # The decoder alone: the head's logits would be the largest tensor of the pass, and nobody reads them.
                decoder(model)(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)
            for layer, residual_BSD in residuals.items():
                _add(sums[layer][group], saes[layer], residual_BSD[counted_BS.to(residual_BSD.device)])
    finally:
        model.train(was_training)
    _reduce(sums, state)
    short = [group for group in texts if not all(sums[layer][group].tokens > 0 for layer in saes)]
    if short:
        raise ValueError(
            f"The texts for {', '.join(short)} hold no token to count: the first token of each text is left out, so "
            "give texts of at least a sentence."
        )
    for layer, groups in sums.items():
        if not all(
            torch.isfinite(one.residual).all() and torch.isfinite(one.activation).all() for one in groups.values()
        ):
            raise ValueError(
                f"Residuals or activations of layer {layer} are not finite. Run the model in float32 or bfloat16, and "
                "check its weights and the SAE's."
            )
    return sums


def _check_texts(texts: Mapping[str, Sequence[str]], batch_size: int, max_length: int) -> None:
    for group, members in texts.items():
        if isinstance(members, str) or not isinstance(members, Sequence):
            raise ValueError(f"Texts for {group} are a {type(members).__name__}; expected a list of strings.")
        wrong = [text for text in members if not isinstance(text, str)]
        if wrong:
            raise ValueError(f"Texts for {group} hold {wrong[0]!r}; expected strings only.")
    empty = [group for group, members in texts.items() if not any(text.strip() for text in members)]
    if empty or not texts:
        raise ValueError(f"No texts for {', '.join(empty) or 'any language'}: every group needs at least one.")
    if batch_size < 1 or max_length < 2:
        raise ValueError(f"batch_size={batch_size}, max_length={max_length}: expected at least 1 and 2.")


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
    residual_ND = residual_ND.to(sae.encoder.device)
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
