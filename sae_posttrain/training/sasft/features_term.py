"""The feature term: how far the pre-activations of a suppressed language's features exceed their baselines."""

# B batch, S sequence, D model width, F features of one layer

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ...artefacts import SASFT_LOSS, SASFT_NO_BASELINE, SASFT_PENALISED, SASFT_PRE_ACTIVATION
from ...feature_set import FeatureSet
from ...residual import Removable, hook_residuals, unwrap
from .batch import Batch
from .checks import check_captured, check_gradient, check_residual, check_settings, weight_of
from .loss import Baseline, Penalty, Scale, build_penalty, sasft_loss
from .refresh import BaselineRefresh
from .segments import BY_LANGUAGE, UNKNOWN, RowGroups
from .weight import Weight

logger = logging.getLogger(__name__)


class FeaturesTerm:
    """SASFT as published. Source: arXiv:2507.14894, L_reduce.

    Args:
        features: the feature set.
        suppress: codes of the languages to keep out of answers in other languages.
        weight, baseline, scale, refresh_baselines: as in `SASFTCallback`.
        groups: what rows are told apart by.
    """

    name = "features"
    loss_name = SASFT_LOSS

    def __init__(
        self,
        features: FeatureSet,
        suppress: Sequence[str],
        weight: Weight,
        baseline: Baseline = "mean",
        scale: Scale = "raw",
        refresh_baselines: int = 0,
        *,
        groups: RowGroups = BY_LANGUAGE,
    ) -> None:
        self._groups = groups
        check_settings(baseline, scale, refresh_baselines)
        self.suppress = tuple(suppress)
        self.features = features.select(suppress)
        self.weight = weight_of("weight", weight, " (published: 5e-4 to 1e-3)")
        self.counted: tuple[str, ...] = (
            *("tokens", "penalised", "no_baseline"),
            *(f"{kind}_{code}" for kind in ("pre_activation", "penalised") for code in self.suppress),
        )
        self.advice: Mapping[str, str] = {
            SASFT_NO_BASELINE: f"their {'language' if groups.are_languages else 'label'} has no baseline in "
            "the feature set. Discover features with texts in it too, or use baseline='zero'.",
        }
        self._settings = {
            "features_sha256": features.sha256,
            "weight": weight,
            "baseline": baseline,
            "scale": scale,
            "refresh_baselines": refresh_baselines,
        }
        self._start = {one.layer: build_penalty(one, suppress, baseline, scale, groups) for one in self.features.layers}
        self.penalties: dict[int, Penalty] = dict(self._start)
        self._every = refresh_baselines
        self._refresh: BaselineRefresh | None = None
        self._ended = 0
        self._drift: dict[str, float] = {}
        self._pre: dict[int, Tensor] | None = None
        self._without_gradient: set[int] = set()
        self._handles: list[Removable] = []

    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    @property
    def penalised(self) -> frozenset[str]:
        """The groups of rows in which some feature is penalised."""
        return frozenset(
            name
            for penalty in self._start.values()
            for name, weight_F in zip(self._groups.names, penalty.weight_LF, strict=False)
            if bool(weight_F.any())
        )

    def check(self, trainer: Trainer) -> None:
        self.features.check_model(unwrap(trainer.model).config)
        if self.weight > 0:
            for sentence in self.features.active_elsewhere() if trainer.is_world_process_zero() else ():
                logger.warning(sentence)
            check_gradient(trainer.model, min(self.penalties))

    def start(self, trainer: Trainer, model: nn.Module, step: int, resumed: Mapping[str, Any]) -> None:
        self.penalties, self._drift = dict(self._start), {}
        self._refresh = BaselineRefresh(self.penalties, self._groups.names) if self._every else None
        self._ended = step
        if self._refresh is not None and "refresh" in resumed:
            self.penalties = self._refresh.resume(self.penalties, resumed["refresh"], trainer)
        # Move the tables before the first forward, which may be compiled. If the model is spread over several devices,
        # `read` moves them again.
        self.penalties = {layer: one.to(trainer.args.device) for layer, one in self.penalties.items()}
        self._handles = hook_residuals(model, self.penalties, self.read)

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._pre = None

    def begin(self, batch: Batch) -> None:
        self._pre, self._without_gradient = {}, set()

    def end(self) -> None:
        self._pre = None

    def read(self, layer: int, residual_BSD: Tensor) -> Tensor | None:
        """Read one layer's pre-activations from its residual. Returns a residual to replace it, or None."""
        if self._pre is None:
            return None  # a forward outside a training loss
        if not torch.is_grad_enabled():
            self._without_gradient.add(layer)  # under label smoothing, a second forward computes metrics only
            return None
        if layer in self._pre:
            raise RuntimeError(f"Layer {layer} ran twice in one loss; SASFT reads one forward per batch.")
        if self.penalties[layer].encoder_FD.device != residual_BSD.device:
            self.penalties[layer] = self.penalties[layer].to(residual_BSD.device)
        if self.weight > 0:
            check_residual(residual_BSD, layer)
            residual_BSD, self._pre[layer] = self.penalties[layer].read(residual_BSD)
            return residual_BSD
        with torch.no_grad():
            _, self._pre[layer] = self.penalties[layer].read(residual_BSD)
        return None

    def finish(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert self._pre is not None, "begin comes first"
        check_captured([layer for layer in self.penalties if layer not in self._pre], self._without_gradient)
        device = batch.labels_BS.device
        total, counted = torch.zeros((), device=device), torch.zeros(len(self.counted), device=device)
        for layer, penalty in self.penalties.items():
            pre_BSF = self._pre[layer][:, -batch.labels_BS.shape[1] :]  # prompt tuning adds tokens at the start
            language_BS, labelled_BS = batch.language_BS.to(pre_BSF.device), batch.labelled_BS.to(pre_BSF.device)
            summed = sasft_loss(pre_BSF, penalty.baseline_LF, penalty.weight_LF, language_BS, labelled_BS)
            total = total + summed.to(device)
            counted = counted + _count(penalty, pre_BSF.detach(), language_BS, labelled_BS).to(device)
            if self._refresh is not None:
                self._refresh.add_layer(layer, pre_BSF, language_BS, labelled_BS)
        return total, counted

    def end_step(self, trainer: Trainer, step: int) -> None:
        if self._refresh is None or step <= self._ended:
            return
        self._ended = step
        self._refresh.end_step()
        if step % self._every == 0:
            self.penalties, self._drift = self._refresh.refresh(self.penalties, trainer)

    def state(self, trainer: Trainer) -> dict[str, Any]:
        return {} if self._refresh is None else {"refresh": self._refresh.state(self.penalties, trainer)}

    def metrics(self, total: Mapping[str, float]) -> dict[str, float]:
        tokens = max(1.0, total["tokens"])
        logs = {
            SASFT_PENALISED: total["penalised"] / tokens,
            SASFT_NO_BASELINE: total["no_baseline"] / tokens,
        }
        for code in self.suppress:
            if total[f"penalised_{code}"] > 0:
                logs[f"{SASFT_PRE_ACTIVATION}{code}"] = total[f"pre_activation_{code}"] / total[f"penalised_{code}"]
        logs |= self._drift
        self._drift = {}
        return logs


def _count(penalty: Penalty, pre_BSF: Tensor, language_BS: Tensor, labelled_BS: Tensor) -> Tensor:
    """One layer's contribution to the counts of the term."""
    penalised_BSF = (penalty.weight_LF[language_BS] > 0) & labelled_BS[..., None]
    no_baseline_BS = labelled_BS & ~penalty.known_L[language_BS] & (language_BS != UNKNOWN)
    kinds = torch.stack([labelled_BS.sum(), penalised_BSF.any(-1).sum(), no_baseline_BS.sum()])
    sum_T = penalty.target_TF @ pre_BSF.where(penalised_BSF, 0.0).sum((0, 1))
    count_T = penalty.target_TF @ penalised_BSF.sum((0, 1)).float()
    return torch.cat([kinds.float(), sum_T, count_T])
