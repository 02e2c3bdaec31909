"""Sample a model's responses to prompts."""

from .endpoint import Endpoint, ServerGone
from .engine import sample_responses, sampler
from .progress import SamplingProgress
from .requests import FailedSample, Prompt, SampleRequest, SamplingEngine, encode_prompts
from .response import FinishReason, Response
from .server import ServerEngine, ask_server
from .settings import SamplingSettings, check_counts, check_temperature_and_top_p

__all__ = [
    "Endpoint",
    "FailedSample",
    "FinishReason",
    "Prompt",
    "Response",
    "SampleRequest",
    "SamplingEngine",
    "SamplingProgress",
    "SamplingSettings",
    "ServerEngine",
    "ServerGone",
    "ask_server",
    "check_counts",
    "check_temperature_and_top_p",
    "encode_prompts",
    "sample_responses",
    "sampler",
]
