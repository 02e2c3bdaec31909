"""Token ids that hold loops: sampled from the model until there are enough, and the periods that are compared."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set.checks import LAST_PERIOD, ORDINARY_TEXT
from ..generation import Prompt, encode_prompts, sampling
from ..metrics import find_loop, find_loops
from ..metrics.loops import DEFAULT_LOOPS, Loop, LoopSettings
from .statistics import Passage, Span

logger = logging.getLogger(__name__)

FIRST, LAST, ORDINARY = "first period", LAST_PERIOD, ORDINARY_TEXT


@dataclass
class LoopSample:
    """Prompts with their responses, as token ids, and what they cost.

    Args:
        looped: those whose response ends in an endless loop.
        ordinary: some that hold no loop at all, never more than `looped`.
        responses: how many were sampled; one for each prompt that was spent.
        tokens: how many those hold.
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    loops: int = 32,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    chat: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    loop_settings: LoopSettings = DEFAULT_LOOPS,
    progress: bool = True,
) -> LoopSample:
    """Sample a response to one prompt after another, until enough of them end in an endless loop.

    Greedy by default, which is when models loop most. What counts as a loop: see `find_loop`, on token ids.
    In a distributed run every process samples its share, and all return the same.

    Raises:
        ValueError: no response to any of the prompts ends in a loop; settings out of range.
    """
    check_loop_fits(max_new_tokens, loop_settings)
    if loops < 1 or batch_size < 1:
        raise ValueError(f"loops={loops}, batch_size={batch_size}: expected at least 1.")
    state = PartialState()
    ids, found = encode_prompts(tokenizer, prompts, chat), LoopSample()
    draws = sampling(
        model,
        tokenizer,
        temperature=temperature,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        seed=seed + state.process_index,
    )
    bar = tqdm(total=loops, desc="loops", disable=not (progress and state.is_main_process))
    with bar, draws as sample:
        for start in range(0, len(ids), batch_size * state.num_processes):
            turn = ids[start : start + batch_size * state.num_processes]
            mine = turn[batch_size * state.process_index :][:batch_size]
            answers = [list(one.ids) for one in sample(mine)] if mine else []
            for prompt, answer in gather_object(list(zip(mine, answers, strict=True))):
                found.responses += 1
                found.tokens += len(answer)
                if len(found.looped) < loops:  # so that any number of processes keeps the same ones
                    _sort(found, prompt, answer, loop_settings)
            bar.update(len(found.looped) - bar.n)
            if len(found.looped) == loops:
                break
    if not found.looped:
        raise ValueError(
            f"None of {found.responses} responses ({found.tokens} tokens) ended in a loop of at least "
            f"{loop_settings.min_tokens} tokens and {loop_settings.min_repeats} periods. Give more prompts, or more "
            f"max_new_tokens ({max_new_tokens}), sample at temperature 0, or give texts that hold loops. A model that "
            "never loops has no repetition to be found."
        )
    logger.info("Found %s.", found)
    if len(found.looped) < loops:
        logger.warning("Found %s, where %d loops were asked for; give more prompts.", found, loops)
    return replace(found, ordinary=found.ordinary[: len(found.looped)])


def check_loop_fits(max_new_tokens: int, loop_settings: LoopSettings) -> None:
    if max_new_tokens < loop_settings.min_tokens:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for a loop, which has at least "
            f"{loop_settings.min_tokens} tokens; raise it, or lower that length."
        )


def _sort(found: LoopSample, prompt: list[int], answer: list[int], loop_settings: LoopSettings) -> None:
    if find_loop(answer, loop_settings):  # one that the model ended by itself, with its end-of-sequence id, is none
        found.looped.append(prompt + answer)
    elif not find_loops(prompt + answer, loop_settings):
        found.ordinary.append(prompt + answer)


def passage_of(ids: Sequence[int], max_length: int, loop_settings: LoopSettings = DEFAULT_LOOPS) -> Passage:
    """Mark the first and the last whole period of the last loop in `ids[:max_length]`, and the text before it.

    Earlier loops are no ordinary text, and are not marked either. Every period weighs the same, however long it is.
    Both begin at the same token of it, so that each token is compared with itself. A loop with fewer than two whole
    periods in `max_length` is not marked.
    """
    loops = find_loops(ids, loop_settings)
    ids = ids[:max_length]
    if not loops:
        return Passage(ids, _spans(Span(ORDINARY, 1, len(ids))))
    loop = max(loops, key=lambda loop: (loop.end, loop.length))
    start = max(loop.start, 1)  # the first position is no token like others: see collect_statistics
    last = (min(loop.end, len(ids)) - start) // loop.period - 1
    spans = _outside(loops, min(start, len(ids)))
    if last >= 1:
        for group, begin in ((FIRST, start), (LAST, start + last * loop.period)):
            spans.append(Span(group, begin, begin + loop.period, 1 / loop.period))
    return Passage(ids, _spans(*spans))


def _outside(loops: Sequence[Loop], end: int) -> list[Span]:
    """What lies before `end` and in no loop."""
    spans, at = [], 1
    for loop in sorted(loops, key=lambda loop: loop.start):
        spans.append(Span(ORDINARY, at, min(loop.start, end)))
        at = max(at, loop.end)
    return [*spans, Span(ORDINARY, at, end)]


def _spans(*spans: Span) -> list[Span]:
    return [span for span in spans if span.end > span.start]
