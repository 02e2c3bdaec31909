"""Engines that steer each response as its request says: transformers here, and a test of whether another one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..feature_set import FeatureSet
from ..sampling import FailedSample, SampleRequest, SamplingEngine, SamplingSettings, TransformersEngine
from .arguments import Steering
from .generate import steer
from .vllm_plugin import FEATURES, features_id

PROBE_STRENGTH = 100.0
"""So strong, in units of typical strength, that a steered response cannot equal an unsteered one."""
PROBE = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=8)


def steered_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: FeatureSet, batch_size: int = 32
) -> TransformersEngine:
    """An engine that samples with transformers and steers each response by the `extra_args` of its request.

    Args:
        model, tokenizer: the model and its tokenizer. In a distributed run each process samples a share.
        features: the features to steer with.
        batch_size: responses sampled at once. A batch may hold responses that are steered differently.

    Example:
        >>> engine = steered_engine(model, tokenizer, features)
        >>> request = SampleRequest("the cat", seed=1, extra_args=Steering(alpha=4.0).extra_args())
        >>> groups = engine.sample([request], SamplingSettings(max_new_tokens=8))
    """
    state = PartialState()
    share = {"process": state.process_index, "processes": state.num_processes}
    return TransformersEngine(model, tokenizer, batch_size, around=partial(_steered, model, features), **share)


@contextmanager
def _steered(model: PreTrainedModel, features: FeatureSet, batch: Sequence[SampleRequest]) -> Iterator[None]:
    asked = [Steering.of(request.extra_args) for request in batch]
    with ExitStack() as stack:
        for layers, top in dict.fromkeys((one.layers, one.top) for one in asked if one.alpha):
            alpha = [one.alpha * ((one.layers, one.top) == (layers, top)) for one in asked]
            stack.enter_context(steer(model, features.select(layers=layers, top=top), alpha=alpha))
        yield


def check_steers(engine: SamplingEngine, features: FeatureSet, prompt: list[int]) -> None:
    """Check that an engine steers with these features: that a response changes when it is steered very strongly.

    Args:
        engine: the engine.
        features: the features.
        prompt: token ids of any prompt.

    Raises:
        ValueError: it does not, or it cannot answer at all.
    """
    strengths = (0.0, PROBE_STRENGTH, -PROBE_STRENGTH)
    asked = [Steering(alpha, features=features_id(features)).extra_args() if alpha else {} for alpha in strengths]
    texts: set[str] = set()
    for group in engine.sample([SampleRequest(prompt, 0, one) for one in asked], PROBE):
        for _, answer in group:
            if isinstance(answer, FailedSample):
                raise ValueError(f"{engine.name} refuses a steered response: {answer.error}")
            texts.add(f"{answer.ids} {answer.text}")
    if len(texts) < 2:
        raise ValueError(
            f"{engine.name} does not steer with these features. Use transformers, or vLLM with sae_posttrain "
            f"in its environment: start vLLM's server with the environment variable {FEATURES}=FILE, where FILE is the "
            "file of these features, unchanged."
        )
