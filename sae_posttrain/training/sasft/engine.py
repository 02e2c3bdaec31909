"""The engine behind the callback and the trainer: it adds the auxiliary terms, scaled like the trainer's own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ...artefacts import SASFT_UNKNOWN
from ...languages import get_language
from .batch import Batch, BatchReader
from .checks import check_data, check_labels_met, check_languages, check_trainer, shows_segments
from .features_term import FeaturesTerm
from .finder import WeightFinder
from .meter import Meter
from .objective import check_objective
from .record import KEY, take_up
from .segments import BY_LANGUAGE, LANGUAGE_IDS, UNKNOWN, LanguageOf, RowGroups
from .telling import LanguageTeller, tokenizer_of
from .terms import Term

_UNKNOWN_ADVICE = {
    SASFT_UNKNOWN: "their language is not known. The script cannot tell en from fr, or the language of "
    "answers without prose. Add a `language` column to the dataset, or pass language_of.",
}


class SASFTEngine:
    """Adds auxiliary terms to a trainer's `compute_loss`.

    Args:
        suppress: codes of the languages to keep out of answers in other languages.
        terms: the auxiliary losses. Without any, the run is plain SFT.
        candidates: the languages that can be identified by script.
        language_of: as in `SASFTCallback`.
        finder: sets the weights of terms with weight `auto`. Default: no term has this weight.
        groups: what rows are told apart by: languages, or labels.
    """

    def __init__(
        self,
        suppress: Sequence[str],
        terms: Sequence[Term],
        candidates: Sequence[str],
        language_of: LanguageOf | None = None,
        finder: WeightFinder | None = None,
        *,
        groups: RowGroups = BY_LANGUAGE,
    ) -> None:
        self.groups = groups
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
        self._teller = LanguageTeller(None, self._candidates, language_of, groups=groups)
        self._reader = BatchReader(self._teller)
        self._tells_languages = True
        self._running = False

    # -- life cycle --------------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer, column: str | None) -> None:
        """Check before training that SASFT can run in this trainer.

        Args:
            column: name of the dataset's language column, if there is one.

        Raises:
            ValueError: the features do not fit the model, layers are frozen, segment boundaries are lost, there are no
                usable labels, and so on.
        """
        if not self.terms:
            return
        check_objective(trainer)
        check_trainer(trainer)
        has_segments = shows_segments(trainer)
        self._tells_languages = column is not None or has_segments
        self._check_labels(column)
        check_languages(trainer, column, self.language_of, max(term.weight for term in self.terms.values()))
        for term in self.terms.values():
            term.check(trainer)
        check_data(trainer.train_dataset, column, self.groups)
        self.check_labels_met(trainer.train_dataset, column)
        self._teller = LanguageTeller(
            *(tokenizer_of(trainer), self._candidates, self.language_of, has_segments), groups=self.groups
        )
        if column is None and trainer.is_world_process_zero():
            self._teller.describe(trainer.train_dataset)

    def _check_labels(self, column: str | None) -> None:
        if not self.groups.are_languages and column is None and self.language_of is None:
            raise ValueError(
                f"The features stand for {', '.join(self.suppress)}, and the training set has no column with labels. "
                "Add a column that label_column names, or pass language_of, a function that gives the labels."
            )

    def check_labels_met(self, dataset: Any, column: str | None) -> None:
        """Refuse to train by label on a dataset none of whose labels is penalised.

        Raises:
            ValueError: there is no such label. The message names those of the dataset and those of the feature set.
        """
        for term in self.terms.values():
            if isinstance(term, FeaturesTerm) and term.weight > 0 and not self.groups.are_languages:
                check_labels_met(dataset, column, self.groups, term.penalised, term.suppress)

    def start(self, trainer: Trainer, model: nn.Module, state: TrainerState) -> None:
        """Hook the model. Call it before the first compiled forward, which ignores hooks that are added later.

        Raises:
            ValueError: the run resumes from a checkpoint that was trained with other features.
        """
        self.stop()
        if not self.terms:
            return
        earlier = take_up(state, self._record)
        self.meter = Meter(self._counted(), state.global_step)
        self._reader = BatchReader(self._teller, state.global_step)
        for name, term in self.terms.items():
            term.weight = earlier.get("weights", {}).get(name, self._start_weights.get(name, 0.0))
            term.start(trainer, model, state.global_step, earlier)
        self.finder.start(state, earlier.get("auto", {}))
        self._running = True

    def end_step(self, trainer: Trainer, state: TrainerState) -> None:
        """Update the terms after an optimizer step. Every rank must call it."""
        self.finder.end_step(trainer, state.global_step)
        for term in self.terms.values():
            term.end_step(trainer, state.global_step)

    def before_save(self, trainer: Trainer) -> None:
        """Put the state of the terms into the next checkpoint. Every rank must call it."""
        if not self._running:
            return
        self.end_step(trainer, trainer.state)  # another callback may save before ours runs
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
        """Run the trainer's own `compute_loss`. In training, add the weighted auxiliary terms to its loss."""
        if not self._measures(trainer):
            inputs.pop(LANGUAGE_IDS, None)
            return original(model, inputs, **kwargs)
        batch = self._reader.read(trainer, inputs, kwargs.get("num_items_in_batch"))
        try:
            for term in self.terms.values():
                term.begin(batch)
            result = original(model, inputs, **kwargs)
            loss, *outputs = result if kwargs.get("return_outputs") else (result,)
            loss = self._add(loss, batch)
        finally:
            for term in self.terms.values():
                term.end()
        return (loss, *outputs) if outputs else loss

    def log(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """Add the metrics since the last log to the trainer's training log. This is a collective call on every rank.

        The trainer's periodic log contains `learning_rate`. Logs from user code, which may run on one rank only, do not
        contain it and are not changed.
        """
        if not ({"loss", "learning_rate"} <= logs.keys() and self._running and self._tells_languages):
            return
        total, steps = self.meter.read(trainer)
        if not total:
            return
        found: dict[str, float] = {SASFT_UNKNOWN: total["unknown"] / max(1.0, total["labelled"])}
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
        """Names of the meter's sums, in the order in which `_add` passes them."""
        names = ["labelled", "unknown", *LanguageTeller.counted]
        for name, term in self.terms.items():
            names += [f"{name}/loss", *(f"{name}/{one}" for one in term.counted)]
        return names

    def _measures(self, trainer: Trainer) -> bool:
        """Whether the terms are computed for this loss. They are computed only in training."""
        if not self.terms or not trainer.model.training:
            return False
        if not self._running and trainer.is_in_train:
            raise RuntimeError("SASFT was set on this trainer but not added: trainer.add_callback(callback).")
        return self._running and self._tells_languages

    def _add(self, loss: Tensor, batch: Batch) -> Tensor:
        """The trainer's loss plus the weighted terms, which are scaled like the trainer's cross-entropy."""
        unknown_BS = batch.labelled_BS & (batch.language_BS == UNKNOWN)
        counts = [batch.labelled_BS.sum(), unknown_BS.sum(), batch.told]
        own, auxiliaries = loss, {}
        for name, term in self.terms.items():
            with torch.set_grad_enabled(term.weight > 0):
                summed, counted = term.finish(batch)
                auxiliary = summed * batch.scale
            if term.weight > 0:
                loss = loss + term.weight * auxiliary.to(loss.device)
            # If the trainer averages over micro-batches, the log must do so too.
            auxiliaries[name] = auxiliary / batch.parts
            counts += [auxiliaries[name], counted]
        self.finder.add(own / batch.parts, auxiliaries)
        self.meter.add(counts)
        return loss


def codes_of(suppress: str | Sequence[str]) -> tuple[str, ...]:
    """Convert a list, or a text such as `zh ru`, to language codes.

    Raises:
        ValueError: no code, or an unknown one.
    """
    named = suppress.replace(",", " ").split() if isinstance(suppress, str) else suppress
    if isinstance(named, bool) or any(not isinstance(code, str) for code in named):
        raise ValueError(f"suppress={suppress!r}: expected language codes. In YAML quote Norwegian as 'no'.")
    if not named:
        raise ValueError("suppress is empty: name the language or languages to keep out, such as 'zh'.")
    return tuple(dict.fromkeys(get_language(code).code for code in named))


class HookCallback(TrainerCallback):
    """Adds the hooks to the model when training begins and removes them when it ends."""

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
