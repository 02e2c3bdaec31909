"""Sample a model's responses to prompts."""

from .engine import Prompt, encode_prompts, sample_responses, sampler
from .progress import SamplingProgress
from .response import FinishReason, Response
from .settings import SamplingSettings, check_counts, check_temperature_and_top_p

__all__ = [
    "FinishReason",
    "Prompt",
    "Response",
    "SamplingProgress",
    "SamplingSettings",
    "check_counts",
    "check_temperature_and_top_p",
    "encode_prompts",
    "sample_responses",
    "sampler",
]
