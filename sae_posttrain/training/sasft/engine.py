"""What the callback and the trainer share: capture residuals, add the loss as the trainer scales its own, log it."""

# B batch, S sequence, D model width, F features of one layer

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback

from ...feature_set import FeatureSet
from ...languages import get_language
from ...residual import decoder, hook_residuals, unwrap
from .loss import Baseline, Scale, build_penalty, sasft_loss
from .meter import Meter
from .segments import LANGUAGE_IDS, UNKNOWN, LanguageOf, ScriptIdentifier, apply_language_of, language_id, segments_of


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
    ) -> None:
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not (math.isfinite(weight) and weight >= 0)
        ):
            raise ValueError(f"weight={weight!r}: expected a finite number of at least 0 (published: 5e-4 to 1e-3).")
        if baseline not in ("mean", "zero"):
            raise ValueError(f"baseline={baseline!r}: expected 'mean' or 'zero'.")
        if scale not in ("raw", "typical"):
            raise ValueError(f"scale={scale!r}: expected 'raw' or 'typical'.")
        self.suppress = _codes(suppress)
        self.features = features.select(self.suppress)
        self.weight = weight
        self.language_of = language_of
        self.penalties = [build_penalty(layer, self.suppress, baseline, scale) for layer in self.features.layers]
        self.meter = Meter(self.suppress)
        self._identify: ScriptIdentifier | None = None
        self._has_segments = True
        self._residuals: dict[int, Tensor] | None = None
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
        if column is None and not self._has_segments:
            raise ValueError(
                "packing_strategy='wrapped' leaves no boundary between examples, so no segment's language can be told. "
                "Use packing_strategy='bfd', or SASFTTrainer with a language column, which packs it alongside."
            )
        if self.weight > 0:
            _check_gradient(trainer.model, min(penalty.layer for penalty in self.penalties))
        if trainer.train_dataset is not None:
            _check_labels(trainer.train_dataset)
            _check_codes(trainer.train_dataset, column)
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        if tokenizer is None and column is None and self.language_of is None:
            raise ValueError(
                "Nothing tells a sample's language: the trainer has no processing_class, whose vocabulary would tell "
                "scripts. Pass it to the trainer, add a `language` column, or pass language_of=…."
            )
        self._identify = ScriptIdentifier(tokenizer, self.features.languages) if tokenizer is not None else None

    def start(self, model: nn.Module, step: int = 0) -> None:
        """Hook the blocks; before the first compiled forward, since hooks that come later are ignored there.

        Args:
            step: optimizer steps already taken, when a run is resumed.
        """
        self.stop()
        self.meter = Meter(self.suppress, step)
        layers = [penalty.layer for penalty in self.penalties]
        self._handles = hook_residuals(model, layers, self._keep)

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._residuals = None

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
        if "labels" not in inputs:
            raise ValueError(f"The batch has {sorted(inputs)}, but no labels: SASFT penalises labelled tokens only.")
        # Taken before the trainer's own computation, which is free to change what it was given.
        batch: dict[str, Tensor] = {
            k: inputs[k] for k in ("input_ids", "labels", "position_ids", "attention_mask") if k in inputs
        }
        residuals: dict[int, Tensor] = {}
        self._residuals = residuals
        try:
            result = original(model, inputs, **kwargs)
        finally:
            self._residuals = None
        missing = [penalty.layer for penalty in self.penalties if penalty.layer not in residuals]
        if missing:
            raise RuntimeError(
                f"The residuals of layers {missing} were not captured. Attach SASFT before the model's first compiled "
                "forward, and train the model the trainer was made with, not a copy of it."
            )
        loss, *outputs = result if kwargs.get("return_outputs") else (result,)
        language_BS = self._languages(batch, language_BS)
        with torch.set_grad_enabled(self.weight > 0):
            auxiliary = self._auxiliary(trainer, residuals, batch["labels"], language_BS, kwargs)
        if self.weight > 0:
            loss = loss + self.weight * auxiliary.to(loss.device)
        return (loss, *outputs) if outputs else loss

    def log(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """Add this period's metrics to the trainer's training logs; a collective call on every rank."""
        if "loss" in logs and self._handles:
            logs.update(self.meter.read(trainer))

    def _keep(self, layer: int, residual_BSD: Tensor) -> None:
        # Forwards outside a training loss, and the second, metrics-only one under label smoothing, are not ours.
        if self._residuals is None or not torch.is_grad_enabled():
            return
        if layer in self._residuals:
            raise RuntimeError(f"Layer {layer} ran twice in one loss; SASFT reads one forward per batch.")
        self._residuals[layer] = residual_BSD

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
        residuals: Mapping[int, Tensor],
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
            residual_BSD = residuals[penalty.layer][:, -labels_BS.shape[1] :]  # prompt tuning puts tokens in front
            if penalty.encoder_FD.device != residual_BSD.device:
                penalty = self.penalties[index] = penalty.to(residual_BSD.device)
            language, labelled = language_BS.to(residual_BSD.device), labelled_BS.to(residual_BSD.device)
            with torch.autocast(residual_BSD.device.type, enabled=False):
                pre_BSF = penalty.pre_activations(residual_BSD)
                summed = sasft_loss(pre_BSF, penalty.baseline_LF, penalty.weight_LF, language, labelled)
            total = total + summed.to(total.device)
            self.meter.add_layer(penalty, pre_BSF.detach(), language, labelled)
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


def _check_gradient(model: nn.Module, layer: int) -> None:
    """Refuse a model in which nothing trainable feeds the layer: its auxiliary gradient would be silently zero."""
    text = decoder(model)
    above = [*text.layers[layer + 1 :], getattr(text, "norm", None), unwrap(model).get_output_embeddings()]
    not_feeding = {id(p) for module in above if module is not None for p in module.parameters()}
    not_feeding -= {id(p) for p in text.get_input_embeddings().parameters()}  # tied to the head
    if not any(p.requires_grad and id(p) not in not_feeding for p in model.parameters()):
        raise ValueError(
            f"Every trainable parameter sits above layer {layer}, whose features are to be suppressed, so the "
            "auxiliary loss would change nothing. Unfreeze layers up to it (LoRA: layers_to_transform), or discover "
            "features in later layers."
        )


def _check_labels(dataset: Any) -> None:
    names = getattr(dataset, "column_names", None)
    if not names or "labels" not in names or not hasattr(dataset, "__len__"):
        return
    if not any(label != -100 for labels in dataset["labels"] for label in labels):
        raise ValueError(
            "No token of the training set has a label: every label is -100, so there is nothing to learn or to "
            "penalise. Check the completion or assistant mask."
        )


def _check_codes(dataset: Any, column: str | None) -> None:
    if column is None or column == LANGUAGE_IDS or not hasattr(dataset, "unique"):
        return
    kind = dataset.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string", "string_view", "null"):
        raise ValueError(
            f"Column {column!r} holds {kind}; expected strings, one language code per row. Convert it, or rename it if "
            "it is about something else."
        )
    try:
        for code in dataset.unique(column):
            language_id(code)
    except ValueError as error:
        raise ValueError(f"Column {column!r}: {error} Rename the column if it is about something else.") from error


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

    def __init__(self, engine: SASFTEngine) -> None:
        self.engine = engine

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.engine.start(kwargs["model"], state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.engine.stop()
