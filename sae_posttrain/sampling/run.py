"""Sample all responses of a run, with any engine: what was kept is not sampled again, and what fails stops nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .engine import TransformersEngine
from .gathering import gathered_from_all
from .kept import KeptResponses, Key
from .progress import SamplingProgress
from .requests import FailedSample, Prompt, SampleRequest, SamplingEngine, TokenIds, requests_for
from .response import Response
from .settings import PUBLISHED, SamplingSettings, check_counts


@dataclass
class KeyedResponses:
    """Responses by their keys: the number of the setting, the prompt's place and the number of the sample.

    Args:
        found: the responses.
        failures: those that could not be sampled, with the reason.
        interrupted: whether the user stopped the sampling; responses are then missing.
    """

    found: dict[Key, Response] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
    interrupted: bool = False

    def gathered(self, processes: int) -> KeyedResponses:
        """The answers of all processes of a distributed run. Every process must call it.

        Args:
            processes: how many there are; with one, nothing is gathered.
        """
        if processes == 1:
            return self
        parts, interrupted = gathered_from_all(self)
        together = KeyedResponses(interrupted=interrupted)
        for one in parts:
            together.found |= one.found
            together.failures |= one.failures
            together.interrupted |= one.interrupted
        return together


def sample_requests(
    engine: SamplingEngine,
    requests: Mapping[Key, SampleRequest],
    settings: SamplingSettings,
    *,
    kept: KeptResponses | None = None,
    progress: SamplingProgress | None = None,
) -> KeyedResponses:
    """Sample the responses to requests with any engine: what was kept is taken from there, and new ones are kept.

    Args:
        engine: what samples them. In a distributed run it samples this process's share.
        requests: the requests, by the keys under which their responses are kept.
        settings: how they are sampled.
        kept: an entered file of kept responses.
        progress: a progress bar.

    Returns:
        The responses; on Ctrl-C those that there are.

    Example:
        >>> engine, request = TransformersEngine(model, tokenizer), SampleRequest("the cat", seed=1)
        >>> answers = sample_requests(engine, {(0, 0, 0): request}, SamplingSettings(max_new_tokens=8))
    """
    keys = list(requests)
    answers = KeyedResponses({key: kept.found[key] for key in keys if key in kept.found} if kept else {})
    done = {place for place, key in enumerate(keys) if key in answers.found}
    try:
        for group in engine.sample([*requests.values()], settings, done, progress):
            new: dict[Key, Response] = {}
            for place, answer in group:
                if isinstance(answer, FailedSample):
                    answers.failures[keys[place]] = answer.error
                else:
                    answers.found[keys[place]] = new[keys[place]] = answer
            if kept is not None:
                kept.add(new)
    except KeyboardInterrupt:
        answers.interrupted = True
    return answers


@dataclass
class SampledRun:
    """The responses of a run at one setting.

    Args:
        responses: those to each prompt, by the number of the sample.
        failures: prompts and numbers of samples that failed, with the reason.
        interrupted: whether the user stopped the run; responses are then missing.
    """

    responses: list[dict[int, Response]]
    failures: dict[tuple[int, int], str] = field(default_factory=dict)
    interrupted: bool = False

    def in_order(self) -> list[list[Response]]:
        """The responses to each prompt, without those that failed or are missing."""
        return [[found[number] for number in sorted(found)] for found in self.responses]

    def count(self) -> int:
        """How many responses there are."""
        return sum(map(len, self.responses))


def sample_run(
    engine: SamplingEngine,
    prompts: Sequence[Prompt | TokenIds],
    settings: SamplingSettings,
    *,
    samples: int = 8,
    kept: KeptResponses | None = None,
    number: int = 0,
    progress: bool = True,
    places: Sequence[int] | None = None,
    processes: int = 1,
) -> SampledRun:
    """Sample responses to each prompt with any engine.

    Args:
        engine: what samples them.
        prompts: texts, lists of messages, or token ids.
        settings: how they are sampled.
        samples: responses per prompt; one if the temperature is 0, since all would be equal.
        kept: an entered file of kept responses. What is in it is not sampled again, and new responses are added to it.
        number: number of the setting in that file.
        progress: whether a progress bar is shown.
        places: the prompts' places in a longer list, for their seeds and keys. Default: 0, 1, 2 and so on.
        processes: how many processes of a distributed run share the prompts; all of them then return all responses.

    Returns:
        The responses; on Ctrl-C those that there are.

    Raises:
        ValueError: a number below 1, or a place that comes twice.

    Example:
        >>> engine = TransformersEngine(model, tokenizer, batch_size=4)
        >>> run = sample_run(engine, ["the cat"], SamplingSettings(max_new_tokens=8), samples=2, progress=False)
        >>> run.count()
        2
    """
    check_counts(samples=samples)
    found = requests_for(prompts, settings, samples, places)
    each = len(found) // len(prompts) if prompts else 1
    at = range(len(prompts)) if places is None else places
    keys = [(number, place, sample) for place in at for sample in range(each)]
    requests = dict(zip(keys, found, strict=True))
    if len(requests) < len(found):
        raise ValueError(f"places must be different numbers, got {list(at)}.")
    wanted = sum(kept is None or key not in kept.found for key in keys)
    shared = -(-wanted // getattr(engine, "processes", 1))  # about as many as this process samples
    with SamplingProgress(shared, settings.max_new_tokens, disable=not progress) as bar:
        answers = sample_requests(engine, requests, settings, kept=kept, progress=bar)
    answers = answers.gathered(processes)
    row = {place: index for index, place in enumerate(at)}
    run = SampledRun([{} for _ in prompts], interrupted=answers.interrupted)
    for (_, place, sample), response in answers.found.items():
        run.responses[row[place]][sample] = response
    run.failures = {(row[place], sample): error for (_, place, sample), error in answers.failures.items()}
    return run


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | TokenIds],
    sampling: SamplingSettings = PUBLISHED,
    *,
    samples: int = 8,
    batch_size: int = 32,
    chat: bool = False,
    progress: bool = True,
    synced: bool | None = None,
    places: Sequence[int] | None = None,
) -> list[list[Response]]:
    """Sample responses to each prompt, in the prompts' order.

    Of the model's own generation config only the end-of-sequence ids are used, not its top_k, penalties or lengths. The
    same seed gives the same responses, whatever the batch size, up to the rounding of the model's own numbers, which
    does depend on the batch.

    Args:
        model, tokenizer: the model and its tokenizer.
        prompts: texts, lists of messages, to which the chat template is applied, or token ids.
        sampling: the temperature, top_p, token limit, seed and so on. The defaults are the published ones.
        samples: responses per prompt; one if the temperature is 0, since all would be equal.
        batch_size: responses sampled at once.
        chat: whether the chat template is applied to text prompts too.
        progress: whether a progress bar is shown.
        synced: whether every process takes as many steps as the longest one, as split weights need it. All processes
            must then sample the same number of batches. By default `generate` decides.
        places: the prompts' places in a longer list, for their seeds. Default: 0, 1, 2 and so on.

    Returns:
        The responses to each prompt.

    Raises:
        ValueError: an empty prompt, a missing chat template or a number below 1.

    Example:
        >>> responses = sample_responses(model, tokenizer, ["the cat"], SamplingSettings(max_new_tokens=64), samples=2)

    Source: arXiv:2507.14894, code-switching evaluation.
    """
    check_counts(batch_size=batch_size)
    engine = TransformersEngine(model, tokenizer, batch_size, chat, synced)
    run = sample_run(engine, prompts, sampling, samples=samples, progress=progress, places=places)
    if run.interrupted:
        raise KeyboardInterrupt
    return run.in_order()
