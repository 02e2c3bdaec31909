"""Sample responses until enough of them loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..metrics import find_loops
from ..metrics.loops import EXACT_LOOPS, LoopSettings
from ..sampling import (
    KeptResponses,
    Prompt,
    Response,
    SampleRequest,
    SamplingEngine,
    SamplingProgress,
    SamplingSettings,
    TransformersEngine,
    encode_prompts,
    sample_requests,
    sample_seed,
)
from ..steering.endless import check_loop_fits, endless_loop

logger = logging.getLogger(__name__)

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=512)


@dataclass
class LoopSample:
    """Prompts with their responses, as token ids, and what they cost.

    Args:
        looped: prompts with a response that ends in an endless loop.
        ordinary: prompts with a response without any loop, at most as many as `looped`.
        responses: number of responses sampled; one for each prompt used.
        tokens: number of tokens in these responses.
    """

    looped: list[list[int]] = field(default_factory=list)
    ordinary: list[list[int]] = field(default_factory=list)
    responses: int = 0
    tokens: int = 0

    @property
    def texts(self) -> list[list[int]]:
        return [*self.looped, *self.ordinary]

    def __str__(self) -> str:
        return f"{len(self.looped)} loops in {self.responses} responses ({self.tokens} tokens)"


def sample_loops(
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    loops: int = 32,
    sampling: SamplingSettings = GREEDY,
    chat: bool = False,
    batch_size: int = 8,
    loop_settings: LoopSettings = EXACT_LOOPS,
    progress: bool = True,
    engine: SamplingEngine | None = None,
    kept: KeptResponses | None = None,
) -> LoopSample:
    """Sample one response to each prompt in turn, until enough of them end in an endless loop.

    In a distributed run every process samples its share, and all return the same.

    Args:
        model, tokenizer: the model and its tokenizer. With an `engine`, the model is not used and may be None.
        prompts: texts or messages.
        loops: number of looping responses to sample.
        sampling: how the responses are sampled. The default is greedy, since models loop most then.
        chat: whether the chat template is applied to text prompts too.
        batch_size: responses sampled at once.
        loop_settings: what counts as a loop in token ids. With `fold_digits`, a response is also a loop if its text
            repeats except for numbers that count up or down.
        progress: whether a progress bar is shown.
        engine: what samples the responses, from the same model. It forms its own batches, so it gets four prompts for
            each loop at once. Default: transformers, with `model`.
        kept: an entered file of kept responses. What is in it is not sampled again, and new responses are added to it.

    Returns:
        The looped responses, some ordinary ones, and how many responses and tokens were sampled.

    Raises:
        ValueError: no response to any of the prompts ends in a loop, or a setting is out of range.

    Example:
        >>> sample = sample_loops(model, tokenizer, ["Count the sheep.", "Tell me a story."], loops=2)
        >>> print(sample, len(sample.looped))

    Source: our own.
    """
    check_loop_fits(sampling.max_new_tokens, loop_settings)
    if loops < 1 or batch_size < 1:
        raise ValueError(f"loops={loops}, batch_size={batch_size}: expected at least 1.")
    state = PartialState()
    ids, found = encode_prompts(tokenizer, prompts, chat, sampling), LoopSample()
    engine = engine or _own_engine(model, tokenizer, batch_size)
    at_once = max(batch_size, 4 * loops)
    if isinstance(engine, TransformersEngine):
        at_once = engine.batch_size * engine.processes
    quiet = not (progress and state.is_main_process)
    with SamplingProgress(len(ids), sampling.max_new_tokens, f"looking for {loops} loops", disable=quiet) as bar:
        for start in range(0, len(ids), at_once):
            some = dict(enumerate(ids[start : start + at_once], start))
            for place, response in _answers(engine, some, sampling, kept, bar):
                response = _with_ids(response, tokenizer)
                text = some[place] + list(response.ids)
                found.responses += 1
                found.tokens += len(response.ids)
                if len(found.looped) == loops:  # any number of processes then keeps the same loops
                    continue
                if endless_loop(response, tokenizer, loop_settings) is not None:
                    found.looped.append(text)
                elif not find_loops(text, loop_settings):
                    found.ordinary.append(text)
            if len(found.looped) == loops:
                break
    _check(found, loops, sampling, loop_settings)
    return replace(found, ordinary=found.ordinary[: len(found.looped)])


def _own_engine(
    model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> TransformersEngine:
    if model is None:
        raise ValueError("Give a model, or an engine that samples.")
    state = PartialState()
    return TransformersEngine(model, tokenizer, batch_size, process=state.process_index, processes=state.num_processes)


def _answers(
    engine: SamplingEngine,
    ids: Mapping[int, list[int]],
    sampling: SamplingSettings,
    kept: KeptResponses | None,
    bar: SamplingProgress,
) -> list[tuple[int, Response]]:
    """The responses of all processes to prompts, with the prompts' places and in their order."""
    requests = {
        (0, place, 0): SampleRequest(prompt, sample_seed(sampling.seed, place, 0)) for place, prompt in ids.items()
    }
    answers = sample_requests(engine, requests, sampling, kept=kept, progress=bar)
    answers = answers.gathered(getattr(engine, "processes", 1))
    if answers.interrupted:
        raise KeyboardInterrupt
    if answers.failures:
        (_, place, _), error = min(answers.failures.items())
        logger.warning(
            "%d responses could not be sampled and are left out. The first is the one to prompt %d: %s",
            len(answers.failures),
            place + 1,
            error,
        )
    return [(place, answers.found[0, place, 0]) for place in ids if (0, place, 0) in answers.found]


def _with_ids(response: Response, tokenizer: PreTrainedTokenizerBase) -> Response:
    """The response with its token ids, which are those of its text if a server does not return them."""
    if response.ids or not response.text:
        return response
    ids: list[int] = tokenizer(response.text, add_special_tokens=False)["input_ids"]
    return replace(response, ids=tuple(ids))


def _check(found: LoopSample, loops: int, sampling: SamplingSettings, loop_settings: LoopSettings) -> None:
    """Warn of too few loops. Raises: ValueError: there is none."""
    if not found.responses:
        raise ValueError("No response could be sampled; the warning above says why.")
    if not found.looped:
        raise ValueError(
            f"None of {found.responses} responses ({found.tokens} tokens) ended in a loop of at least "
            f"{loop_settings.min_tokens} tokens and {loop_settings.min_repeats} periods. Give more prompts, or more "
            f"max_new_tokens ({sampling.max_new_tokens}), sample at temperature 0, or give texts that hold loops. "
            "Repetition features cannot be found in a model that never loops."
        )
    logger.info("Found %s.", found)
    if len(found.looped) < loops:
        logger.warning("Found %s, but %d loops were asked for; give more prompts.", found, loops)
