"""Sample a model's responses to prompts."""

from .engine import Prompt, check_settings, encode_prompts, evaluating, sample_responses, sampling
from .progress import SamplingProgress
from .response import FinishReason, Response

__all__ = [
    "FinishReason",
    "Prompt",
    "Response",
    "SamplingProgress",
    "check_settings",
    "encode_prompts",
    "evaluating",
    "sample_responses",
    "sampling",
]
