"""Sample all responses of a run, with any engine: what was kept is not sampled again, and what fails stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .engine import TransformersEngine
from .kept import KeptResponses
from .progress import SamplingProgress
from .requests import FailedSample, Prompt, SamplingEngine, requests_for
from .response import Response
from .settings import PUBLISHED, SamplingSettings, check_counts


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
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    *,
    samples: int = 8,
    kept: KeptResponses | None = None,
    number: int = 0,
    progress: bool = True,
) -> SampledRun:
    """Sample responses to each prompt with any engine.

    Args:
        engine: what samples them.
        prompts: texts, or lists of messages.
        settings: how they are sampled.
        samples: responses per prompt; one if the temperature is 0, since all would be equal.
        kept: an entered file of kept responses. What is in it is not sampled again, and new responses are added to it.
        number: number of the setting in that file.
        progress: whether a progress bar is shown.

    Returns:
        The responses; on Ctrl-C those that there are.

    Example:
        >>> engine = TransformersEngine(model, tokenizer, batch_size=4)
        >>> run = sample_run(engine, ["the cat"], SamplingSettings(max_new_tokens=8), samples=2, progress=False)
        >>> run.count()
        2
    """
    check_counts(samples=samples)
    requests = requests_for(prompts, settings, samples)
    each = len(requests) // len(prompts) if prompts else 1
    run = SampledRun([{} for _ in prompts])
    for (setting, prompt, sample), response in (kept.found if kept else {}).items():
        if setting == number:
            run.responses[prompt][sample] = response
    done = {prompt * each + sample for prompt, found in enumerate(run.responses) for sample in found}
    bar = SamplingProgress(_wanted(engine, len(requests) - len(done)), settings.max_new_tokens, disable=not progress)
    with bar:
        try:
            for group in engine.sample(requests, settings, done, bar):
                new: dict[tuple[int, int, int], Response] = {}
                for place, answer in group:
                    prompt, sample = divmod(place, each)
                    if isinstance(answer, FailedSample):
                        run.failures[prompt, sample] = answer.error
                    else:
                        run.responses[prompt][sample] = new[number, prompt, sample] = answer
                if kept is not None:
                    kept.add(new)
        except KeyboardInterrupt:
            run.interrupted = True
    return run


def _wanted(engine: SamplingEngine, responses: int) -> int:
    """How many of the responses this process samples, nearly."""
    return -(-responses // getattr(engine, "processes", 1))


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
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
        prompts: texts, or lists of messages, to which the chat template is applied.
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
    check_counts(samples=samples, batch_size=batch_size)
    engine = TransformersEngine(model, tokenizer, batch_size, chat, synced)
    requests = requests_for(prompts, sampling, samples, places)
    found: dict[int, Response | FailedSample] = {}
    with SamplingProgress(len(requests), sampling.max_new_tokens, disable=not progress) as bar:
        for group in engine.sample(requests, sampling, (), bar):
            found.update(group)
    responses = [one for _, one in sorted(found.items()) if isinstance(one, Response)]
    each = len(requests) // max(1, len(prompts))
    return [responses[start : start + each] for start in range(0, len(responses), max(1, each))]
