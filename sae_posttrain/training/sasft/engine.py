"""What the callback and the trainer share: read the residuals, add the loss as the trainer scales its own, log it."""

# B batch, S sequence, D model width, F features of one layer

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ...feature_set import FeatureSet
from ...languages import get_language
from ...residual import hook_residuals, unwrap
from .checks import check_boundaries, check_codes, check_gradient, check_labels, check_residual, check_settings
from .loss import Baseline, Scale, build_penalty, sasft_loss
from .meter import Meter
from .record import KEY, take_up
from .refresh import BaselineRefresh
from .segments import LANGUAGE_IDS, UNKNOWN, LanguageOf, ScriptIdentifier, apply_language_of, segments_of


class SASFTEngine:
    """Adds the SASFT loss to a trainer's `compute_loss`; knows nothing of how it got there.

    Takes what `SASFTCallback` takes.
    """

    def __init__(
        self,
        features: FeatureSet,
        suppress: str | Sequence[str],
        weight: float,
        baseline: Baseline = "mean",
        scale: Scale = "raw",
        language_of: LanguageOf | None = None,
        refresh_baselines: int = 0,
    ) -> None:
        check_settings(weight, baseline, scale, refresh_baselines)
        self.suppress = _codes(suppress)
        self.features = features.select(self.suppress)
        self.weight = weight
        self.language_of = language_of
        self.refresh_baselines = refresh_baselines
        self.record = {
            "features_sha256": features.sha256,
            "suppress": list(self.suppress),
            "weight": weight,
            "baseline": baseline,
            "scale": scale,
            "refresh_baselines": refresh_baselines,
        }
        self._start_penalties = [build_penalty(one, self.suppress, baseline, scale) for one in self.features.layers]
        self.penalties = list(self._start_penalties)
        self.meter = Meter(self.suppress)
        self._refresh: BaselineRefresh | None = None
        self._ended = 0
        self._drift: dict[str, float] = {}
        self._identify: ScriptIdentifier | None = None
        self._has_segments = self._tells_languages = True
        self._pre: dict[int, Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    # -- life cycle --------------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer, column: str | None) -> None:
        """Check that this trainer can be served, before anything runs.

        Args:
            column: the dataset column that will carry languages, if there is one.

        Raises:
            ValueError: a model the features do not fit, frozen layers, lost segment boundaries, no usable labels, …
        """
        self.features.check_model(unwrap(trainer.model).config)
        if trainer.args.n_gpu > 1:
            raise ValueError(
                "Several GPUs are visible to one process, which would split each batch over copies of the model. Start "
                "with `accelerate launch`, or show the process one GPU (CUDA_VISIBLE_DEVICES)."
            )
        if trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1:
            raise ValueError("SASFT cannot run under context or sequence parallelism: a rank sees parts of segments.")
        args = trainer.args
        self._has_segments = not (getattr(args, "packing", False) and args.packing_strategy == "wrapped")
        self._tells_languages = column is not None or self._has_segments
        check_boundaries(self._tells_languages, self.weight)
        if self.weight > 0:
            check_gradient(trainer.model, min(penalty.layer for penalty in self.penalties))
        if trainer.train_dataset is not None:
            check_labels(trainer.train_dataset)
            check_codes(trainer.train_dataset, column)
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        if tokenizer is None and column is None and self.language_of is None:
            raise ValueError(
                "Nothing tells a sample's language: the trainer has no processing_class, whose vocabulary would tell "
                "scripts. Pass it to the trainer, add a `language` column, or pass language_of=…."
            )
        self._identify = ScriptIdentifier(tokenizer, self.features.languages) if tokenizer is not None else None

    def start(self, trainer: Trainer, model: nn.Module, state: TrainerState) -> None:
        """Hook the blocks; before the first compiled forward, since hooks that come later are ignored there.

        Raises:
            ValueError: the run is resumed from a checkpoint that was trained with other features.
        """
        self.stop()
        refreshed = take_up(state, self.record)
        self.meter = Meter(self.suppress, state.global_step)
        self.penalties, self._drift = list(self._start_penalties), {}
        self._refresh = BaselineRefresh(self.refresh_baselines, self.penalties) if self.refresh_baselines else None
        self._ended = state.global_step
        if self._refresh is not None and refreshed is not None:
            self.penalties = self._refresh.resume(self.penalties, refreshed, trainer)
        # Moved before the first forward, which may be compiled; a model spread over devices moves them again.
        self.penalties = [penalty.to(trainer.args.device) for penalty in self.penalties]
        self._handles = hook_residuals(model, [penalty.layer for penalty in self.penalties], self._read)

    def end_step(self, trainer: Trainer, state: TrainerState) -> None:
        """Refresh the baselines when it is time; a collective call on every rank."""
        step = state.global_step
        if self._refresh is None or step <= self._ended:
            return
        self._ended = step
        self._refresh.end_step()
        if step % self.refresh_baselines == 0:
            self.penalties, self._drift = self._refresh.refresh(self.penalties, trainer)

    def before_save(self, trainer: Trainer) -> None:
        """Tell the coming checkpoint where the refreshed baselines stand; a collective call on every rank."""
        if self._refresh is not None and self._handles:
            self.end_step(trainer, trainer.state)  # a callback that saves may come before ours
            refresh = self._refresh.state(self.penalties, trainer)
            trainer.state.stateful_callbacks[KEY] = {**self.record, "refresh": refresh}

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._pre = None

    # -- the step ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, trainer: Trainer, original: Callable[..., Any], model: nn.Module, inputs: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Run the trainer's own `compute_loss` and add the weighted auxiliary term to it, in training only."""
        language_BS = inputs.pop(LANGUAGE_IDS, None)
        if not (self._handles and trainer.model.training):
            if trainer.is_in_train and trainer.model.training:
                raise RuntimeError("SASFT was set on this trainer but not added: trainer.add_callback(callback).")
            return original(model, inputs, **kwargs)
        if not self._tells_languages:
            return original(model, inputs, **kwargs)
        if "labels" not in inputs:
            raise ValueError(f"The batch has {sorted(inputs)}, but no labels: SASFT penalises labelled tokens only.")
        # Taken before the trainer's own computation, which is free to change what it was given.
        batch: dict[str, Tensor] = {
            k: inputs[k] for k in ("input_ids", "labels", "position_ids", "attention_mask") if k in inputs
        }
        pre: dict[int, Tensor] = {}
        self._pre = pre
        try:
            result = original(model, inputs, **kwargs)
        finally:
            self._pre = None
        missing = [penalty.layer for penalty in self.penalties if penalty.layer not in pre]
        if missing:
            raise RuntimeError(
                f"The residuals of layers {missing} were not captured. Attach SASFT before the model's first compiled "
                "forward, and train the model the trainer was made with, not a copy of it. Before transformers 5.23, "
                'checkpoint with gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        loss, *outputs = result if kwargs.get("return_outputs") else (result,)
        language_BS = self._languages(batch, language_BS)
        with torch.set_grad_enabled(self.weight > 0):
            auxiliary = self._auxiliary(trainer, pre, batch["labels"], language_BS, kwargs)
        if self.weight > 0:
            loss = loss + self.weight * auxiliary.to(loss.device)
        return (loss, *outputs) if outputs else loss

    def log(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """Add this period's metrics to the trainer's training logs; a collective call on every rank.

        Told from a log of somebody's own, perhaps on one rank alone, by the learning rate.
        """
        if {"loss", "learning_rate"} <= logs.keys() and self._handles and self._tells_languages:
            logs.update(self.meter.read(trainer))
            logs.update(self._drift)
            self._drift = {}

    def _read(self, layer: int, residual_BSD: Tensor) -> Tensor | None:
        # Forwards outside a training loss, and the second, metrics-only one under label smoothing, are not ours.
        if self._pre is None or not torch.is_grad_enabled():
            return None
        if layer in self._pre:
            raise RuntimeError(f"Layer {layer} ran twice in one loss; SASFT reads one forward per batch.")
        index = next(index for index, penalty in enumerate(self.penalties) if penalty.layer == layer)
        if self.penalties[index].encoder_FD.device != residual_BSD.device:
            self.penalties[index] = self.penalties[index].to(residual_BSD.device)
        if self.weight > 0:
            check_residual(residual_BSD, layer)
            residual_BSD, self._pre[layer] = self.penalties[index].read(residual_BSD)
            return residual_BSD
        with torch.no_grad():
            _, self._pre[layer] = self.penalties[index].read(residual_BSD)
        return None

    def _languages(self, batch: Mapping[str, Tensor], told_BS: Tensor | None) -> Tensor:
        """What the column told; what it left open, the user's function; what that left open, the scripts."""
        if not self._has_segments:
            assert told_BS is not None, "attach refuses lost boundaries without a column"
            return told_BS
        segment_BS = segments_of(batch)
        if self._identify is not None:
            language_BS = self._identify(batch, segment_BS)
        else:
            language_BS = torch.full_like(segment_BS, UNKNOWN)
        if self.language_of is not None:
            given_BS = apply_language_of(self.language_of, batch, segment_BS)
            language_BS = given_BS.where(given_BS >= 0, language_BS)
        return language_BS if told_BS is None else told_BS.where(told_BS >= 0, language_BS)

    def _auxiliary(
        self,
        trainer: Trainer,
        pre: Mapping[int, Tensor],
        labels_BS: Tensor,
        language_BS: Tensor,
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        # The tokens that the cross-entropy counts: nothing predicts a first token, and packing drops its label too.
        labelled_BS = labels_BS != -100
        labelled_BS[:, 0] = False
        scale = _scale(trainer, labelled_BS, kwargs.get("num_items_in_batch"))
        total = torch.zeros((), device=labels_BS.device)
        for index, penalty in enumerate(self.penalties):
            pre_BSF = pre[penalty.layer][:, -labels_BS.shape[1] :]  # prompt tuning puts tokens in front
            language, labelled = language_BS.to(pre_BSF.device), labelled_BS.to(pre_BSF.device)
            summed = sasft_loss(pre_BSF, penalty.baseline_LF, penalty.weight_LF, language, labelled)
            total = total + summed.to(total.device)
            self.meter.add_layer(penalty, pre_BSF.detach(), language, labelled)
            if self._refresh is not None:
                self._refresh.add_layer(index, pre_BSF, language, labelled)
        auxiliary = total * scale
        # Without a token count for the whole step, the trainer averages micro-batches; so must the log.
        steps = 1 if kwargs.get("num_items_in_batch") is not None else trainer.current_gradient_accumulation_steps
        self.meter.add_batch(auxiliary / steps)
        return auxiliary


def _scale(trainer: Trainer, labelled_BS: Tensor, num_items: Tensor | int | None) -> Tensor:
    """What the trainer multiplies its summed cross-entropy by."""
    if num_items is None:
        return 1 / labelled_BS.sum().clamp(min=1)
    scale = 1 / torch.as_tensor(num_items, device=labelled_BS.device).clamp(min=1)
    if trainer.args.average_tokens_across_devices:
        scale = scale * (trainer.accelerator.num_processes // trainer.get_tp_size())
    return scale


def _codes(suppress: str | Sequence[str]) -> tuple[str, ...]:
    """Language codes from a list or a text such as `zh ru`."""
    named = suppress.replace(",", " ").split() if isinstance(suppress, str) else suppress
    if isinstance(named, bool) or any(not isinstance(code, str) for code in named):
        raise ValueError(f"suppress={suppress!r}: expected language codes. In YAML quote Norwegian: 'no'.")
    if not named:
        raise ValueError("suppress is empty: name the language or languages to keep out, such as 'zh'.")
    return tuple(dict.fromkeys(get_language(code).code for code in named))


class HookCallback(TrainerCallback):
    """Hooks the model's blocks for as long as it trains."""

    def __init__(self, engine: SASFTEngine, trainer: Trainer | None = None) -> None:
        self.engine = engine
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.engine.start(self.trainer, kwargs["model"], state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.engine.end_step(self.trainer, state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.engine.stop()
