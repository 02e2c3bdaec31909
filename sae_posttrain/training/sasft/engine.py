"""What the callback and the trainer share: run the terms beside the trainer's loss, scale them as it scales its own."""

# B batch, S sequence

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ...languages import get_language
from .checks import check_boundaries, check_codes, check_labels, check_processes
from .finder import WeightFinder
from .meter import Meter
from .record import KEY, take_up
from .segments import LANGUAGE_IDS, UNKNOWN, LanguageOf
from .telling import LanguageTeller
from .terms import Batch, Term

_UNKNOWN_ADVICE = {
    "sasft_unknown_share": "their language is not known. The script cannot tell en from fr, or the language of "
    "answers without prose. Add a `language` column to the dataset, or pass language_of.",
}


class SASFTEngine:
    """Adds auxiliary terms to a trainer's `compute_loss`; knows nothing of how it got there.

    Args:
        suppress: codes of the languages to keep out of the others.
        terms: the auxiliary losses. Without any, the run is plain SFT.
        candidates: the languages among which a segment's scripts decide.
        language_of: as in `SASFTCallback`.
        finder: sets the weights of terms that are to find their own; by default none does.
    """

    def __init__(
        self,
        suppress: Sequence[str],
        terms: Sequence[Term],
        candidates: Sequence[str],
        language_of: LanguageOf | None = None,
        finder: WeightFinder | None = None,
    ) -> None:
        self.suppress = tuple(suppress)
        self.finder = finder or WeightFinder((), 0.0)
        self.terms: dict[str, Term] = {term.name: term for term in terms}
        self.language_of = language_of
        self._candidates = tuple(candidates)
        settings = [setting for term in terms for setting in term.settings().items()]
        self._record = {"suppress": list(self.suppress), **dict(settings)}
        if self.finder.terms:
            self._record["loss_budget"] = self.finder.loss_budget
        self._start_weights = {name: one.weight for name, one in self.terms.items() if name not in self.finder.terms}
        self.meter = Meter(self._counted())
        self._teller = LanguageTeller(None, self._candidates, language_of)
        self._told = torch.zeros(len(LanguageTeller.counted))
        self._tells_languages = True
        self._running = False
        self._place = (0, 0)

    # -- life cycle --------------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer, column: str | None) -> None:
        """Check that this trainer can be served, before anything runs.

        Args:
            column: the dataset column that will carry languages, if there is one.

        Raises:
            ValueError: a model the features do not fit, frozen layers, lost segment boundaries, no usable labels, …
        """
        if not self.terms:
            return
        check_processes(trainer)
        args = trainer.args
        has_segments = not (getattr(args, "packing", False) and args.packing_strategy == "wrapped")
        self._tells_languages = column is not None or has_segments
        check_boundaries(self._tells_languages, max(term.weight for term in self.terms.values()))
        for term in self.terms.values():
            term.check(trainer)
        if trainer.train_dataset is not None:
            check_labels(trainer.train_dataset)
            check_codes(trainer.train_dataset, column)
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        if tokenizer is None and column is None and self.language_of is None:
            raise ValueError(
                "The languages of the samples cannot be found: the trainer has no processing_class, whose vocabulary "
                "is needed for the scripts. Pass it to the trainer, add a `language` column, or pass language_of."
            )
        self._teller = LanguageTeller(tokenizer, self._candidates, self.language_of, has_segments)
        if column is None and trainer.is_world_process_zero():
            self._teller.describe(trainer.train_dataset)

    def start(self, trainer: Trainer, model: nn.Module, state: TrainerState) -> None:
        """Hook the model; before the first compiled forward, since hooks that come later are ignored there.

        Raises:
            ValueError: the run is resumed from a checkpoint that was trained with other features.
        """
        self.stop()
        if not self.terms:
            return
        earlier = take_up(state, self._record)
        self.meter = Meter(self._counted(), state.global_step)
        self._place = (state.global_step, -1)
        for name, term in self.terms.items():
            term.weight = earlier.get("weights", {}).get(name, self._start_weights.get(name, 0.0))
            term.start(trainer, model, state.global_step, earlier)
        self.finder.start(state, earlier.get("auto", {}))
        self._running = True

    def end_step(self, trainer: Trainer, state: TrainerState) -> None:
        """Let the terms renew what they renew between steps; a collective call on every rank."""
        self.finder.end_step(trainer, state.global_step)
        for term in self.terms.values():
            term.end_step(trainer, state.global_step)

    def before_save(self, trainer: Trainer) -> None:
        """Tell the coming checkpoint where the terms stand; a collective call on every rank."""
        if not self._running:
            return
        self.end_step(trainer, trainer.state)  # a callback that saves may come before ours
        weights = {name: term.weight for name, term in self.terms.items() if name not in self.finder.terms}
        grown: dict[str, Any] = {} if weights == self._start_weights else {"weights": weights}
        if self.finder.terms:
            grown["auto"] = self.finder.state()
        for term in self.terms.values():
            grown |= term.state(trainer)
        trainer.state.stateful_callbacks[KEY] = {**self._record, **grown}

    def stop(self) -> None:
        """Remove the hooks."""
        self._running = False
        for term in self.terms.values():
            term.stop()

    # -- the step ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, trainer: Trainer, original: Callable[..., Any], model: nn.Module, inputs: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Run the trainer's own `compute_loss` and add the weighted auxiliary terms to it, in training only."""
        told_BS = inputs.pop(LANGUAGE_IDS, None)
        if not self.terms:
            return original(model, inputs, **kwargs)
        if not (self._running and trainer.model.training):
            if trainer.is_in_train and trainer.model.training:
                raise RuntimeError("SASFT was set on this trainer but not added: trainer.add_callback(callback).")
            return original(model, inputs, **kwargs)
        if not self._tells_languages:
            return original(model, inputs, **kwargs)
        if "labels" not in inputs:
            raise ValueError(f"The batch has {sorted(inputs)}, but no labels: SASFT penalises labelled tokens only.")
        batch = self._batch(trainer, inputs, told_BS)
        try:
            for term in self.terms.values():
                term.begin(batch)
            result = original(model, inputs, **kwargs)
            loss, *outputs = result if kwargs.get("return_outputs") else (result,)
            loss = self._add(trainer, loss, batch, kwargs.get("num_items_in_batch"))
        finally:
            for term in self.terms.values():
                term.end()
        return (loss, *outputs) if outputs else loss

    def log(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """Add this period's metrics to the trainer's training logs; a collective call on every rank.

        The trainer's periodic log contains `learning_rate`; logs from user code, perhaps on one rank alone, do not, and
        are left alone.
        """
        if not ({"loss", "learning_rate"} <= logs.keys() and self._running and self._tells_languages):
            return
        total, steps = self.meter.read(trainer)
        if not total:
            return
        found: dict[str, float] = {"sasft_unknown_share": total["unknown"] / max(1.0, total["labelled"])}
        found |= self._teller.metrics(total, total["labelled"])
        advice = dict(_UNKNOWN_ADVICE)
        for name, term in self.terms.items():
            found[term.loss_name] = total[f"{name}/loss"] / steps / trainer.accelerator.num_processes
            found |= term.metrics({one: total[f"{name}/{one}"] for one in term.counted})
            advice |= term.advice
        found |= self.finder.metrics()
        logs.update(found)
        if trainer.is_world_process_zero():
            self.meter.warn(found, advice)

    def _counted(self) -> list[str]:
        """What the meter sums, in the order in which `_add` gives it."""
        names = ["labelled", "unknown", *LanguageTeller.counted]
        for name, term in self.terms.items():
            names += [f"{name}/loss", *(f"{name}/{one}" for one in term.counted)]
        return names

    def _batch(self, trainer: Trainer, inputs: Mapping[str, Any], told_BS: Tensor | None) -> Batch:
        """What the terms are told; taken before the trainer's own computation, which may change what it was given."""
        labels_BS = inputs["labels"]
        # The tokens that the cross-entropy counts: nothing predicts a first token, and packing drops its label too.
        labelled_BS = labels_BS != -100
        labelled_BS[:, 0] = False
        step, number = self._place
        self._place = (step, number + 1) if trainer.state.global_step == step else (trainer.state.global_step, 0)
        place = (*self._place, trainer.args.process_index)
        language_BS, self._told = self._teller.tell(inputs, told_BS, labelled_BS)
        return Batch(labels_BS, labelled_BS, language_BS, place)

    def _add(self, trainer: Trainer, loss: Tensor, batch: Batch, num_items: Tensor | int | None) -> Tensor:
        """The trainer's loss with the weighted terms, which are scaled as the trainer scales its cross-entropy."""
        scale = _scale(trainer, batch.labelled_BS, num_items)
        # Without a token count for the whole step, the trainer averages micro-batches; so must the log.
        steps = 1 if num_items is not None else trainer.current_gradient_accumulation_steps
        unknown_BS = batch.labelled_BS & (batch.language_BS == UNKNOWN)
        parts = [batch.labelled_BS.sum(), unknown_BS.sum(), self._told]
        own, auxiliaries = loss, {}
        for name, term in self.terms.items():
            with torch.set_grad_enabled(term.weight > 0):
                summed, counted = term.finish(batch)
                auxiliary = summed * scale
            if term.weight > 0:
                loss = loss + term.weight * auxiliary.to(loss.device)
            auxiliaries[name] = auxiliary / steps
            parts += [auxiliaries[name], counted]
        self.finder.add(own / steps, auxiliaries)
        self.meter.add(parts)
        return loss


def _scale(trainer: Trainer, labelled_BS: Tensor, num_items: Tensor | int | None) -> Tensor:
    """What the trainer multiplies its summed cross-entropy by."""
    if num_items is None:
        return 1 / labelled_BS.sum().clamp(min=1)
    scale = 1 / torch.as_tensor(num_items, device=labelled_BS.device).clamp(min=1)
    if trainer.args.average_tokens_across_devices:
        scale = scale * (trainer.accelerator.num_processes // trainer.get_tp_size())
    return scale


def codes_of(suppress: str | Sequence[str]) -> tuple[str, ...]:
    """Language codes from a list or a text such as `zh ru`.

    Raises:
        ValueError: no code, or an unknown one.
    """
    named = suppress.replace(",", " ").split() if isinstance(suppress, str) else suppress
    if isinstance(named, bool) or any(not isinstance(code, str) for code in named):
        raise ValueError(f"suppress={suppress!r}: expected language codes. In YAML quote Norwegian: 'no'.")
    if not named:
        raise ValueError("suppress is empty: name the language or languages to keep out, such as 'zh'.")
    return tuple(dict.fromkeys(get_language(code).code for code in named))


class HookCallback(TrainerCallback):
    """Hooks the model for as long as it trains."""

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
