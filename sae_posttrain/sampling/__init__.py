"""Sample a model's responses to prompts."""

from .endpoint import Endpoint, ServerGone
from .engine import TransformersEngine, sampler
from .kept import KeptResponses, describe_run
from .progress import SamplingProgress
from .requests import (
    FailedSample,
    Prompt,
    SampleRequest,
    SamplingEngine,
    ScoringEngine,
    TokenIds,
    encode_prompts,
    is_token_ids,
    sample_seed,
)
from .response import FinishReason, Response
from .run import KeyedResponses, SampledRun, sample_requests, sample_responses, sample_run
from .server import ServerEngine, ask_server
from .settings import SamplingSettings, check_counts, check_temperature_and_top_p

__all__ = [
    "Endpoint",
    "FailedSample",
    "FinishReason",
    "KeptResponses",
    "KeyedResponses",
    "Prompt",
    "Response",
    "SampleRequest",
    "SampledRun",
    "SamplingEngine",
    "SamplingProgress",
    "SamplingSettings",
    "ScoringEngine",
    "ServerEngine",
    "ServerGone",
    "TokenIds",
    "TransformersEngine",
    "ask_server",
    "check_counts",
    "check_temperature_and_top_p",
    "describe_run",
    "encode_prompts",
    "is_token_ids",
    "sample_requests",
    "sample_responses",
    "sample_run",
    "sample_seed",
    "sampler",
]
