"""Steered and ordinary rollouts in vLLM's one generate call, through TRL's own code for both of its modes.

TRL gives all rows of a batch the same sampling parameters. Inside `InVLLM.requests`, the chosen rows get their own: the
strength that the plugin of `sae_posttrain.steering.vllm_plugin` reads, a temperature, and vLLM's detection of loops.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from ...feature_set import FeatureSet
from ...metrics.loops import LoopSettings, find_loop
from ...steering.generate import replaced
from ...steering.vllm_plugin import ALPHA, FEATURES, FEATURES_ID, features_id
from .plan import RolloutPlan
from .source import Source

logger = logging.getLogger(__name__)

LONGEST_PERIOD = 512  # vLLM compares every period up to this one at every token
PROBE: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 1, "logprobs": 20}
PROBE_STRENGTH = 100.0  # so strong that rounding cannot be taken for steering, nor steering for rounding
PROBE_TOKENS, PROBE_NATS = 5, 1.0


class InVLLM:
    """Samples the chosen rows of a batch in vLLM's own generate call, beside the others.

    The first call measures whether vLLM steers: the probabilities of one token, steered and not. vLLM does not steer if
    its processes were started without the plugin's environment variable, or with other features.

    Args:
        source: what the chosen rows are steered with.
        features: the features that vLLM steers with. None if the source has no directions.
    """

    def __init__(self, source: Source, features: FeatureSet | None) -> None:
        self.source = source
        self.identity = features and features_id(features)
        self.steers: bool | None = None if source.directions else True

    @contextmanager
    def requests(self, trainer: Any, plan: RolloutPlan) -> Iterator[None]:
        """Give the chosen rows their own parameters in TRL's generate call inside the block."""
        generation, asked = trainer.vllm_generation, self.steers is None
        if generation.mode == "server":
            # Only the main process has a client, and asks for the rows of all processes.
            client = getattr(generation, "vllm_client", None)
            if client is None:
                yield
            else:
                with replaced(client, "generate", self._through_server(client.generate, plan.everywhere)):
                    yield
            if asked:
                answer = [self.steers]
                broadcast_object_list(answer, from_process=0)
                self.steers = answer[0]
        else:
            rows = plan.rows_of_engine(getattr(generation, "tensor_parallel_size", 1))
            with replaced(generation.llm, "generate", self._in_process(generation.llm.generate, rows)):
                yield
        if asked and not self.steers:
            logger.warning(
                "vLLM does not steer with these features, so transformers generates the steered rollouts again. Start "
                "vLLM's processes with %s=FILE, where FILE holds the features of this run.",
                FEATURES,
            )

    def ended(
        self, completions: Sequence[Sequence[int]], rows: Sequence[int], limit: int, final: Collection[int] = ()
    ) -> frozenset[int]:
        """Of these rows, those that vLLM ended in a loop before the token limit.

        Args:
            completions: token ids of every row.
            rows: the rows to look at.
            limit: the token limit.
            final: end-of-sequence tokens. A row that ends with one ended by itself, even if it looped before.
        """
        loops = self.source.stop_at
        if loops is None:
            return frozenset()
        cut = [row for row in rows if 0 < len(completions[row]) < limit and completions[row][-1] not in final]
        return frozenset(row for row in cut if find_loop(completions[row], loops))

    def _in_process(self, generate: Callable[..., Any], rows: Sequence[bool]) -> Callable[..., Any]:
        """For colocate mode: `LLM.generate` takes one `SamplingParams` for each prompt."""

        def each_its_own(prompts: Any, sampling_params: Any, **kwargs: Any) -> Any:
            if self.steers is None:
                probe = {**PROBE, "structured_outputs": None}
                probes = [
                    changed(sampling_params, probe),
                    changed(sampling_params, probe | self._steering(PROBE_STRENGTH)),
                ]
                outputs = generate([prompts[0]] * 2, sampling_params=probes, use_tqdm=False)
                found = [output.outputs[0].logprobs[0] for output in outputs]
                self.steers = differ(*({token: one.logprob for token, one in first.items()} for first in found))
            if self.steers:
                chosen = changed(sampling_params, self._changes())
                sampling_params = [chosen if row else sampling_params for row in rows]
            return generate(prompts, sampling_params=sampling_params, **kwargs)

        return each_its_own

    def _through_server(self, generate: Callable[..., Any], rows: Sequence[bool]) -> Callable[..., Any]:
        """For server mode: a request has one set of parameters, so the chosen rows are requests of their own.

        The requests are sent together, and the server generates them in the same batches.
        """

        def apart(prompts: Any, features: Any = None, n: int = 1, **kwargs: Any) -> Any:
            given = kwargs.pop("generation_kwargs", None) or {}

            def ask(places: Sequence[int], count: int, changes: Mapping[str, Any]) -> Any:
                own = over_http(given, changes, from_features=features is not None)
                few = None if features is None else [features[place] for place in places]
                return generate([prompts[place] for place in places], few, count, **kwargs, generation_kwargs=own)

            if self.steers is None:
                answers = [ask([0], 1, PROBE), ask([0], 1, PROBE | self._steering(PROBE_STRENGTH))]
                firsts = [
                    dict(zip(one["logprob_token_ids"][0][0], one["logprobs"][0][0], strict=True)) for one in answers
                ]
                self.steers = differ(*firsts)
            if not self.steers:
                return ask(range(len(prompts)), n, {})
            parts = split(rows, n)
            with ThreadPoolExecutor(len(parts)) as pool:
                asked = [
                    pool.submit(ask, part, count, self._changes() if chosen else {}) for chosen, count, part in parts
                ]
            return merged(rows, n, [(part[0], part[2], one.result()) for part, one in zip(parts, asked, strict=True)])

        return apart

    def _steering(self, times: float = 1.0) -> dict[str, Any]:
        return {"extra_args": {ALPHA: times * self.source.alpha, FEATURES_ID: self.identity}}

    def _changes(self) -> dict[str, Any]:
        """What is different in the parameters of a chosen row."""
        changes = self._steering() if self.source.directions else {}
        if self.source.temperature is not None:
            changes["temperature"] = self.source.temperature
            if self.source.temperature == 0:
                changes |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
        if self.source.stop_at is not None:
            changes["repetition_detection"] = detection(self.source.stop_at)
        return changes


def detection(loops: LoopSettings) -> dict[str, int]:
    """vLLM's detection of repeated patterns, for loops of at least so many periods and tokens.

    In vLLM all sizes of a pattern need the same number of repeats. A loop of a short period is found through a multiple
    of its period: among the sizes from m to 2 m - 1 there is a multiple of every period up to m. So a rollout ends
    after `min_tokens` to twice as many. Loops of a period above `LONGEST_PERIOD` are not ended.
    """
    smallest = -(-loops.min_tokens // loops.min_repeats)
    largest = max(2 * smallest - 1, LONGEST_PERIOD)
    return {"min_pattern_size": smallest, "max_pattern_size": largest, "min_count": loops.min_repeats}


def changed(sampling_params: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of vLLM's `SamplingParams` with other values."""
    copy = sampling_params.clone()
    for name, value in changes.items():
        if name == "extra_args":
            value = {**(copy.extra_args or {}), **value}
        elif name == "repetition_detection":
            value = repetition_detection(value)
        setattr(copy, name, value)
    return copy


def repetition_detection(rule: Mapping[str, int]) -> Any:
    from vllm.sampling_params import RepetitionDetectionParams

    return RepetitionDetectionParams(**rule)


def over_http(given: Mapping[str, Any], changes: Mapping[str, Any], *, from_features: bool) -> dict[str, Any]:
    """The body of a request with other values. vLLM's endpoint for images takes `SamplingParams` by their own names."""
    body = {**given, **changes}
    if extra := changes.get("extra_args"):
        del body["extra_args"]
        name = "extra_args" if from_features else "vllm_xargs"
        body[name] = {**(given.get(name) or {}), **extra}
    return body


def differ(plain: Mapping[int, float | None], steered: Mapping[int, float | None]) -> bool:
    """Whether two sets of a token's log-probabilities, of the likeliest tokens, differ by more than rounding."""
    known = {token: value for token, value in plain.items() if value is not None}
    for token in sorted(known, key=lambda token: -known[token])[:PROBE_TOKENS]:
        after = steered.get(token)
        if after is None or not abs(known[token] - after) < PROBE_NATS:
            return True
    return False


def split(rows: Sequence[bool], group: int) -> list[tuple[bool, int, list[int]]]:
    """The requests that together make all rows: whether they are steered, completions of each prompt, and prompts.

    Args:
        rows: for each row, whether it is steered; `group` rows of a prompt after each other.
        group: rows of a prompt.
    """
    parts: dict[tuple[bool, int], list[int]] = {}
    for place, start in enumerate(range(0, len(rows), group)):
        steered = sum(rows[start : start + group])
        for chosen, count in ((False, group - steered), (True, steered)):
            if count:
                parts.setdefault((chosen, count), []).append(place)
    return [(*key, places) for key, places in parts.items()]


def merged(rows: Sequence[bool], group: int, answers: Sequence[tuple[bool, list[int], Any]]) -> dict[str, Any]:
    """The answers to the requests of `split`, as if one request had made all rows.

    Args:
        rows, group: as in `split`.
        answers: whether steered, the prompts, and the answer of each request.
    """
    prompt_ids: dict[int, Any] = {}
    waiting: dict[tuple[int, bool], Iterator[Any]] = {}
    columns = [name for name in answers[0][2] if name != "prompt_ids"]
    for chosen, places, answer in answers:
        made = list(zip(*(answer[name] for name in columns), strict=True))
        count = len(made) // len(places)
        for number, place in enumerate(places):
            prompt_ids[place] = answer["prompt_ids"][number]
            waiting[place, chosen] = iter(made[number * count : (number + 1) * count])
    ordered = [next(waiting[row // group, bool(chosen)]) for row, chosen in enumerate(rows)]
    found = {name: list(values) for name, values in zip(columns, zip(*ordered, strict=True), strict=True)}
    return {"prompt_ids": [prompt_ids[place] for place in sorted(prompt_ids)], **found}


@contextmanager
def given_to_vllm(features: FeatureSet | None) -> Iterator[None]:
    """Let the vLLM that is started inside the block, in this process, steer with these features."""
    if features is None:
        yield
        return
    before = os.environ.get(FEATURES)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FEATURES] = str(features.save(Path(folder) / "features.safetensors"))
        try:
            yield
        finally:
            del os.environ[FEATURES]
            if before is not None:
                os.environ[FEATURES] = before
