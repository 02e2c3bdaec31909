"""The token term: unlikelihood of a suppressed language's tokens in answers in other languages."""

# B batch, S sequence, D model width, N penalised positions, T suppressed languages

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer

from ...artefacts import SASFT_TOKEN_LOSS, SASFT_TOKEN_MASS, SASFT_TOKEN_PENALISED, SASFT_TOKEN_SHARED_SCRIPT
from ...residual import hook_hidden_states
from ...token_counts import TokenCounts
from .batch import Batch
from .checks import check_share, weight_of
from .head import LogitTransform, check_logits, head_of, shape_of, transform_of
from .segments import UNKNOWN
from .telling import tokenizer_of
from .token_table import UNPENALISED, TokenTable, build_token_table
from .unlikelihood import Positions, token_unlikelihood
from .weight import Weight


class TokenTerm:
    """`−log(1 − probability mass of the suppressed language's tokens)` in answers in other languages.

    This is unlikelihood training (arXiv:1908.04319) on a set of tokens. Whether the distribution at position t is
    penalised depends on the label at t + 1. It is exempt if this label

    - is in the suppressed language, or in an unknown one,
    - is itself a token of the set, or
    - does not count in the trainer's cross-entropy, such as the labels of a prompt.

    Args:
        suppress: codes of the languages to keep out of answers in other languages.
        weight, share, counts: `token_weight`, `token_share` and `token_counts` of `SASFTCallback`.
    """

    name = "tokens"
    loss_name = SASFT_TOKEN_LOSS

    def __init__(
        self, suppress: Sequence[str], weight: Weight, share: float = 1.0, counts: TokenCounts | None = None
    ) -> None:
        check_share(share)
        self.suppress = tuple(suppress)
        self.weight = weight_of("token_weight", weight)
        self.share = share
        self.counted: tuple[str, ...] = (
            *("tokens", "penalised", "shared"),
            *(f"{kind}_{code}" for kind in ("mass", "sampled") for code in self.suppress),
        )
        self.advice: Mapping[str, str] = {
            SASFT_TOKEN_SHARED_SCRIPT: "their language is written in the suppressed language's scripts, so the "
            "script of a token does not distinguish the two. Count the tokens of texts in both languages "
            "(sae-posttrain discover tokens) and pass the result as token_counts.",
        }
        self._counted_tokens = counts
        self._settings: dict[str, Any] = {"token_weight": weight, "token_share": share}
        if counts is not None:
            self._settings["token_counts_sha256"] = counts.sha256
        self._seed = 0
        self._table: TokenTable | None = None
        self._transform = LogitTransform()
        self._model: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self._positions: tuple[Tensor, Tensor, Positions] | None = None
        self._found: tuple[Tensor, Tensor] | None = None
        self._counts: Tensor | None = None

    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    def check(self, trainer: Trainer) -> None:
        if trainer.get_tp_size() > 1:
            raise ValueError(
                "The token term cannot run under tensor parallelism, because each rank has only a part of the "
                "vocabulary. Turn tensor parallelism off, or leave token_weight out."
            )
        tokenizer = tokenizer_of(trainer)
        if tokenizer is None:
            raise ValueError(
                "The token term needs the vocabulary, and the trainer has no processing_class. Pass the model's "
                "tokenizer to the trainer, or leave token_weight out."
            )
        if self._counted_tokens is not None:
            self._counted_tokens.check_tokenizer(tokenizer)
        size = shape_of(head_of(trainer.model).weight)[0]
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            check_logits(trainer.model)
        self._table = build_token_table(tokenizer, self.suppress, size, self._counted_tokens)
        self._transform = transform_of(trainer.model)

    def start(self, trainer: Trainer, model: nn.Module, step: int, resumed: Mapping[str, Any]) -> None:
        assert self._table is not None, "check comes first"
        self._seed, self._model = trainer.args.seed, model
        self._table = self._table.to(trainer.args.device)
        self._handle = hook_hidden_states(model, self.read)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._model = None
        self.end()

    def begin(self, batch: Batch) -> None:
        """Choose the penalised positions. This needs only what is known before the forward."""
        assert self._table is not None, "check comes first"
        self._table = table = self._table.to(batch.labels_BS.device)
        language_BS, counts_BS = batch.language_BS[:, 1:], batch.labelled_BS[:, 1:]
        table_BST = table.table_LT[language_BS]
        known_BST = (table_BST != UNPENALISED) & counts_BS[..., None]
        label_BS1 = batch.labels_BS[:, 1:, None].clamp(min=0)
        # If the label is itself a token of the set, as in a name or a quotation, its position is exempt.
        weight_BST = (1 - table.member_KV[table_BST.clamp(min=0), label_BS1]).where(known_BST, 0.0)
        penalised_BS = (weight_BST > 0).any(-1)
        shared_BS = counts_BS & table.shared_L[language_BS] & (language_BS != UNKNOWN)
        self._counts = torch.stack([one.sum() for one in (batch.labelled_BS, penalised_BS, shared_BS)]).float()
        row_N, place_N = penalised_BS.nonzero(as_tuple=True)
        chosen_N = self._sample(len(row_N), batch.place).to(row_N.device)
        row_N, place_N = row_N[chosen_N], place_N[chosen_N]
        weight_NT = weight_BST[row_N, place_N] * (int(penalised_BS.sum()) / max(1, len(chosen_N)))
        chosen = Positions(place_N, table_BST[row_N, place_N].clamp(min=0), weight_NT)
        self._positions, self._found = (row_N, batch.labels_BS, chosen), None

    def end(self) -> None:
        self._positions = self._found = self._counts = None

    def read(self, hidden_BSD: Tensor) -> Tensor | None:
        """Compute the loss from the hidden states. Returns hidden states to replace them, or None."""
        # Ignore forwards outside a training loss, and the second forward under label smoothing, which is for metrics.
        if self._positions is None or not torch.is_grad_enabled():
            return None
        if self._found is not None:
            raise RuntimeError("The decoder ran twice in one loss; SASFT reads one forward per batch.")
        assert self._model is not None, "start comes first"
        assert self._table is not None, "check comes first"
        row_N, labels_BS, chosen = self._positions
        virtual = hidden_BSD.shape[1] - labels_BS.shape[1]  # prompt tuning adds tokens at the start
        place_N = row_N * hidden_BSD.shape[1] + virtual + chosen.place_N
        head = head_of(self._model)
        with torch.set_grad_enabled(self.weight > 0):
            passed_BSD, loss, mass_NT = token_unlikelihood(
                hidden_BSD,
                head.weight,
                head.bias,
                Positions(place_N, chosen.table_NT, chosen.weight_NT),
                self._table.member_KV,
                self._transform,
            )
        self._found = loss, mass_NT
        return passed_BSD if self.weight > 0 else None

    def finish(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._found is None:
            raise RuntimeError(
                "The decoder's hidden states were not captured. Attach SASFT before the model's first compiled "
                "forward, and train the model that the trainer was made with, not a copy."
            )
        assert self._positions is not None, "begin comes first"
        assert self._counts is not None, "begin comes first"
        device = batch.labels_BS.device
        loss, mass_NT = (one.to(device) for one in self._found)
        counted_NT = self._positions[2].weight_NT.to(device) > 0
        mass_T = mass_NT.where(counted_NT, 0.0).sum(0)
        return loss, torch.cat([self._counts, mass_T, counted_NT.sum(0).float()])

    def end_step(self, trainer: Trainer, step: int) -> None:
        pass

    def state(self, trainer: Trainer) -> dict[str, Any]:
        return {}

    def metrics(self, total: Mapping[str, float]) -> dict[str, float]:
        tokens = max(1.0, total["tokens"])
        logs = {
            SASFT_TOKEN_PENALISED: total["penalised"] / tokens,
            SASFT_TOKEN_SHARED_SCRIPT: total["shared"] / tokens,
        }
        for code in self.suppress:
            if total[f"sampled_{code}"] > 0:
                logs[f"{SASFT_TOKEN_MASS}{code}"] = total[f"mass_{code}"] / total[f"sampled_{code}"]
        return logs

    def _sample(self, count: int, place: tuple[int, int, int]) -> Tensor:
        """The indices of the positions to use: a share of `count`, drawn without replacement.

        The draw depends only on the run's seed and the place in the run. It does not change the run's random numbers,
        and a resumed run makes the same draws.
        """
        if self.share == 1:
            return torch.arange(count)
        key = hashlib.sha256(repr((self._seed, *place)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return torch.randperm(count, generator=generator)[: math.ceil(self.share * count)].sort().values
