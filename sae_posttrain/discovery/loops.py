"""Sample responses until enough of them loop, and mark the periods that are compared."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set.checks import LAST_PERIOD, ORDINARY_TEXT
from ..metrics import find_loops
from ..metrics.loops import EXACT_LOOPS, LoopSettings
from ..metrics.search import Loop
from ..sampling import Prompt, SamplingProgress, SamplingSettings, encode_prompts, sample_seed, sampler
from ..steering.endless import check_loop_fits, endless_loop
from ..vocabulary import token_bytes
from .statistics import GroupSpan, TokenPassage

logger = logging.getLogger(__name__)

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=512)
FIRST, LAST, ORDINARY = "first period", LAST_PERIOD, ORDINARY_TEXT


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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    loops: int = 32,
    sampling: SamplingSettings = GREEDY,
    chat: bool = False,
    batch_size: int = 8,
    loop_settings: LoopSettings = EXACT_LOOPS,
    progress: bool = True,
) -> LoopSample:
    """Sample one response to each prompt in turn, until enough of them end in an endless loop.

    In a distributed run every process samples its share, and all return the same.

    Args:
        model, tokenizer: the model and its tokenizer.
        prompts: texts or messages.
        loops: number of looping responses to sample.
        sampling: how the responses are sampled. The default is greedy, since models loop most then.
        chat: whether the chat template is applied to text prompts too.
        batch_size: responses sampled at once.
        loop_settings: what counts as a loop in token ids. With `fold_digits`, a response is also a loop if its text
            repeats except for numbers that count up or down.
        progress: whether a progress bar is shown.

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
    quiet = not (progress and state.is_main_process)
    bar = SamplingProgress(len(ids), sampling.max_new_tokens, f"looking for {loops} loops", disable=quiet)
    with bar, sampler(model, tokenizer, sampling, progress=bar) as sample:
        for start in range(0, len(ids), batch_size * state.num_processes):
            first = start + batch_size * state.process_index
            mine = ids[first : first + batch_size]
            seeds = [sample_seed(sampling.seed, first + place, 0) for place in range(len(mine))]
            answers = sample(mine, seeds) if mine else []
            judged = [
                (prompt, list(one.ids), endless_loop(one, tokenizer, loop_settings) is not None)
                for prompt, one in zip(mine, answers, strict=True)
            ]
            for prompt, answer, loops_on in gather_object(judged):
                found.responses += 1
                found.tokens += len(answer)
                if len(found.looped) == loops:  # any number of processes then keeps the same loops
                    continue
                if loops_on:
                    found.looped.append(prompt + answer)
                elif not find_loops(prompt + answer, loop_settings):
                    found.ordinary.append(prompt + answer)
            if len(found.looped) == loops:
                break
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
    return replace(found, ordinary=found.ordinary[: len(found.looped)])


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that consist of digits only, perhaps after a space."""
    raws = enumerate(token_bytes(tokenizer))
    return frozenset(index for index, raw in raws if raw.strip().decode("utf-8", "replace").isdecimal())


def passage_of(
    ids: Sequence[int],
    max_length: int,
    loop_settings: LoopSettings = EXACT_LOOPS,
    digits: frozenset[int] = frozenset(),
) -> TokenPassage:
    """Mark the first and the last whole period of the last loop in `ids[:max_length]`, and the text before it.

    Earlier loops are not marked, as loop or as ordinary text. Every period has the same total weight, whatever its
    length. Both marked periods begin at the same token of the period, so that each token is compared with itself. A
    loop with fewer than two whole periods in `max_length` is not marked.

    Args:
        ids: token ids.
        max_length: number of them that are read.
        loop_settings: what counts as a loop.
        digits: tokens that are treated as equal, also several in a row, so that text which repeats except for its
            numbers is a loop. Such a loop needs twice as many periods.
    """
    folded, places = _folded(ids, digits)
    loops = find_loops(folded, loop_settings)
    if digits:
        loops = [
            loop
            for loop in loops
            if loop.repeats >= loop_settings.counting_repeats
            or digits.isdisjoint(ids[places[loop.start] : places[loop.end]])
        ]
    whole, ids = [Loop(places[one.start], places[one.end], one.period) for one in loops], ids[:max_length]
    if not loops:
        return TokenPassage(ids, _spans(GroupSpan(ORDINARY, 1, len(ids))))
    loop = max(loops, key=lambda loop: (loop.end, loop.length))
    start = max(loop.start, 1)  # the first position is no token like others: see collect_statistics
    read = bisect_right(places, len(ids)) - 1
    last = (min(loop.end, read) - start) // loop.period - 1
    spans = _outside(whole, min(places[start], len(ids)))
    if last >= 1:
        for group, begin in ((FIRST, start), (LAST, start + last * loop.period)):
            from_, to = places[begin], places[begin + loop.period]
            spans.append(GroupSpan(group, from_, to, 1 / (to - from_)))
    return TokenPassage(ids, _spans(*spans))


def _folded(ids: Sequence[int], digits: frozenset[int]) -> tuple[list[int], list[int]]:
    """The ids with each run of digits replaced by one id; and the position where each new id begins, then the end."""
    one = min(digits, default=0)
    folded, places = list[int](), list[int]()
    for place, token in enumerate(ids):
        if token in digits and folded and folded[-1] == one and ids[place - 1] in digits:
            continue
        folded.append(one if token in digits else token)
        places.append(place)
    return folded, [*places, len(ids)]


def _outside(loops: Sequence[Loop], end: int) -> list[GroupSpan]:
    """The spans before `end` that are in no loop."""
    spans, at = [], 1
    for loop in sorted(loops, key=lambda loop: loop.start):
        spans.append(GroupSpan(ORDINARY, at, min(loop.start, end)))
        at = max(at, loop.end)
    return [*spans, GroupSpan(ORDINARY, at, end)]


def _spans(*spans: GroupSpan) -> list[GroupSpan]:
    return [span for span in spans if span.end > span.start]
