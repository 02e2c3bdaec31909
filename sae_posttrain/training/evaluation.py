"""Measure code-switching and repetition during training, on the model's answers to a fixed set of prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from ..metrics import LoopSettings, SwitchCriteria, Thinking, allowed_in, code_switching_rate
from ..metrics.loops import DEFAULT_LOOPS
from ..metrics.messages import text_of
from ..metrics.thinking import as_thinking, opens_thinking
from ..residual import evaluating
from ..sampling import Prompt, Response, SamplingSettings, check_counts, encode_prompts, sample_responses
from .calling import calling_trainer
from .rates import Answer, rates

SAMPLING = SamplingSettings(max_new_tokens=256)

logger = logging.getLogger(__name__)

Answers = dict[int, list[Response]]
"""Mapping from the index of a prompt to its answers."""


class RateEvaluationCallback(TrainerCallback):
    """Measures code-switching and repetition before the first step, every `every` steps and after the last step.

    It works in any `Trainer` of a causal language model.

    It logs:

    - `eval_code_switching`: the share of answers with a word outside their language's script.
    - `eval_repetition`: the share of answers that end in an endless loop.
    - `eval_code_switching_count` and `eval_repetition_count`: the numbers of these answers.
    - `eval_code_switching_responses` and `eval_responses`: the numbers of answers that the shares refer to. With `to`,
      answers in a language that is itself written in the target's script are not searched for switches.
    - `eval_code_switching_words`: the mean share of an answer's words that are switches.
    - `eval_near_loops`: the share of answers that end in a near-loop instead.
    - `eval_looped_share`: the mean share of an answer that is inside loops.

    The answers come from the model in training, with its adapters. Each process answers its part of the prompts. Each
    answer has random numbers of its own, the same at every measurement and for any number of processes. The run stays
    the same bit for bit: random states, training mode and the model's settings are restored.

    An error during generation does not end the run: it is logged as a warning, and this measurement is left out. Under
    FSDP2 it ends the run, because the other processes would wait forever for the one that failed. ZeRO-3 and FSDP1 are
    not supported.

    Args:
        prompts: rows with `prompt`, a text or messages, and `language`, the code of the language of its answer;
            optionally `allowed`, the languages that the answer may use besides its own. If no row has a language, only
            repetition is measured.
        every: number of optimizer steps between measurements.
        ignore_prompt: whether words that occur in the prompt are not counted as switches, as in
            `CodeSwitchingPenalty`. Default: False, as in `measure`.
        loop_settings: what counts as a loop. An answer that the model ended by itself is not an endless loop.
        sampling: the temperature, top_p, token limit and seed of the sampling.
        samples: responses per prompt.
        batch_size: responses that each process samples at once.
        chat: whether the chat template is applied to text prompts. Default: if the tokenizer has one.
        thinking: which part is measured for reasoning models: `strip` measures the answer, `only` the thinking, `both`
            each of them. With `both`, the rates of the thinking are logged as `eval_thinking_code_switching`,
            `eval_thinking_repetition` and so on if some answer has thinking, and `eval_unfinished_thinking` is the
            number of responses without an answer. Give a `Thinking` for other tags.
        criteria: the options of `SwitchCriteria`, which say what counts as a switch, as keyword arguments: to, phrases,
            ignore_code, ignore_urls, ignore_glosses, count_latin, han_without_kana, allowed.

    Raises:
        TypeError: an unknown option.
        ValueError: there are no prompts, a row has no prompt or an unknown language, or a setting is out of range. When
            training begins: the model cannot generate in this trainer, or the tokenizer cannot encode the prompts.

    Example:
        >>> prompts = [{"prompt": "Why is the sky blue?", "language": "en"}]
        >>> trainer.add_callback(RateEvaluationCallback(prompts, every=100))

    Source: our own; the rates are those of `code_switching_rate` and `repetition_rate`.
    """

    def __init__(
        self,
        prompts: Iterable[Mapping[str, Any]],
        every: int,
        *,
        ignore_prompt: bool = False,
        loop_settings: LoopSettings = DEFAULT_LOOPS,
        sampling: SamplingSettings = SAMPLING,
        samples: int = 1,
        batch_size: int = 32,
        chat: bool | None = None,
        thinking: str | Thinking = "both",
        **criteria: Any,
    ) -> None:
        check_counts(every=every, samples=samples, batch_size=batch_size)
        if not isinstance(sampling, SamplingSettings):
            raise ValueError(f"sampling must be SamplingSettings, got {sampling!r}.")
        if not isinstance(loop_settings, LoopSettings):
            raise ValueError(f"loop_settings must be LoopSettings, got {loop_settings!r}.")
        SwitchCriteria(**criteria)  # raises on bad options
        rows = list(prompts)
        self.every = every
        self.prompts = _prompts(rows)
        self.languages = _languages(rows)
        self.allowed = [allowed_in(row) for row in rows]
        self.ignore_prompt = ignore_prompt
        self.criteria = criteria
        self.loop_settings = loop_settings
        self.sampling, self.samples, self.batch_size = sampling, samples, batch_size
        self.chat = chat
        self.thinking = as_thinking(thinking)
        self.trainer: Trainer | None = None
        self._measured_at: int | None = None
        if self.languages is not None:
            code_switching_rate(["a b c d e"] * len(rows), self.languages, **criteria)  # raises on bad options

    def set_trainer(self, trainer: Trainer) -> RateEvaluationCallback:
        """Check now, before training begins, that this trainer's model can answer the prompts.

        Returns: the callback. Raises: ValueError: it cannot. The message says what to change.
        """
        _check(trainer)
        encode_prompts(_tokenizer(trainer), self.prompts, self._uses_chat(trainer), self.sampling)
        self.trainer = trainer
        return self

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = calling_trainer() or self.trainer
        if trainer is None:
            raise ValueError("RateEvaluationCallback found no trainer: call .set_trainer(trainer) before training.")
        self.set_trainer(trainer)
        self._measured_at = state.global_step or None

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Not in on_train_begin, because other callbacks may add hooks there after this one.
        if state.global_step == 0:
            self._measure(state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._measure(state, control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop:  # set after this step's `on_step_end`, so training ends early
            self._measure(state, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if not replaced or state.best_global_step == state.global_step:  # else the weights are another step's
            self._measure(state, control)

    def _measure(self, state: TrainerState, control: TrainerControl) -> None:
        """Sample answers, measure and log, at most once per step. Every process must call it."""
        if self._measured_at == state.global_step:
            return
        self._measured_at = state.global_step
        trainer = self.trainer
        assert trainer is not None
        answers: Answers = {}
        problem = ""
        try:
            answers = self._answer(trainer)
        except Exception as error:
            if _is_sharded(trainer.model):
                raise
            logger.warning("Generating for the evaluation failed.", exc_info=True)
            problem = f"{type(error).__name__}: {error}"
        gathered: list[tuple[Answers, str]] = gather_object([(answers, problem)])
        problems = [one for _, one in gathered if one]
        if not problems:
            self._log(trainer, control, {place: texts for part, _ in gathered for place, texts in part.items()})
        elif trainer.is_world_process_zero():
            logger.warning("Step %d is not evaluated; training continues. %s", state.global_step, problems[0])

    def _answer(self, trainer: Trainer) -> Answers:
        """Answer this process's part of the prompts, padded so that all processes have the same number."""
        rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
        places = range(rank, rank + world * -(-len(self.prompts) // world), world)
        with _usable(trainer) as model:
            answers = sample_responses(
                model,
                _tokenizer(trainer),
                [self.prompts[place % len(self.prompts)] for place in places],
                self.sampling,
                samples=self.samples,
                batch_size=self.batch_size,
                chat=self._uses_chat(trainer),
                progress=False,
                synced=_is_sharded(trainer.model) or None,
                places=places,
            )
        return {place: found for place, found in zip(places, answers, strict=True) if place < len(self.prompts)}

    def _log(self, trainer: Trainer, control: TrainerControl, answers: Answers) -> None:
        languages: Sequence[str | None] = self.languages or [None] * len(self.prompts)
        quoted = [text_of(prompt) if self.ignore_prompt else "" for prompt in self.prompts]
        measured = [
            Answer(one.text, one.ended, languages[place], self.allowed[place], quoted[place])
            for place in range(len(self.prompts))
            for one in answers[place]
        ]
        template = self.sampling.chat_template_args
        opened = self._uses_chat(trainer) and opens_thinking(_tokenizer(trainer), self.thinking.tags[0], template)
        thinking = replace(self.thinking, opened=True) if opened else self.thinking
        logs = rates(measured, thinking, self.loop_settings, self.criteria)
        should_log = control.should_log
        # Call Trainer.log itself: TRL's override would add this step's training metrics here and then delete them.
        Trainer.log(trainer, logs)
        control.should_log = should_log  # logging resets it, so the trainer would not log its loss

    def _uses_chat(self, trainer: Trainer) -> bool:
        return bool(_tokenizer(trainer).chat_template) if self.chat is None else self.chat


def _prompts(rows: Sequence[Mapping[str, Any]]) -> list[Prompt]:
    if not rows:
        raise ValueError("prompts is empty. Give at least one row with a prompt.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), (str, list)):
            raise ValueError(
                f"prompts, row {number}: expected a row with 'prompt', a text or messages, got {row!r:.80}."
            )
    return [row["prompt"] for row in rows]


def _languages(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    languages = [row.get("language") for row in rows]
    if not any(languages):
        return None
    for number, language in enumerate(languages, start=1):
        if not language:
            raise ValueError(
                f"prompts, row {number} has no 'language', but other rows have one. Give one to all rows or to none."
            )
    return [str(language) for language in languages]


def _tokenizer(trainer: Trainer) -> Any:
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)


def _check(trainer: Trainer) -> None:
    if _tokenizer(trainer) is None:
        raise ValueError("The trainer has no processing_class. Pass it the tokenizer, which prompts and answers need.")
    if not hasattr(trainer.model, "generate"):
        raise ValueError(f"{type(trainer.model).__name__} cannot generate; use a causal language model.")
    if getattr(getattr(trainer.model, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{type(trainer.model).__name__} is an encoder-decoder; use a causal language model.")
    if isinstance(trainer.model, FullyShardedDataParallel):
        raise ValueError("FSDP1 cannot generate while it trains: set fsdp_version: 2 in the accelerate configuration.")
    if any(hasattr(parameter, "ds_status") for parameter in trainer.model.parameters()):
        # With DeepSpeed 0.19 and adapters the processes deadlocked.
        raise ValueError("ZeRO-3 cannot generate safely while it trains: use ZeRO-2 or FSDP2, or measure afterwards.")
    if trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1 or trainer.get_tp_size() > 1:
        raise ValueError("Context, sequence and tensor parallelism are not supported: processes share their batches.")


@contextmanager
def _usable(trainer: Trainer) -> Iterator[Any]:
    """The model without the wrappers that training adds."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if not _is_sharded(model):
        yield model
        return
    with evaluating(model), torch.no_grad():
        # FSDP2 takes the module that runs first as its root, and `generate` of a PEFT model starts at an inner module.
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=trainer.accelerator.device))
    model.unshard()
    try:
        yield model
    finally:
        for module in filter(_is_sharded, model.modules()):
            module.reshard()


def _is_sharded(module: Any) -> bool:
    return isinstance(module, FSDPModule)
