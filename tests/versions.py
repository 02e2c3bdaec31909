"""What differs between the supported versions of TRL and transformers, so that tests can say what to expect."""

from importlib.metadata import PackageNotFoundError, version

import transformers
from packaging.version import Version
from transformers import Gemma3ForConditionalGeneration

try:
    TRL = Version(version("trl"))
except PackageNotFoundError:  # the tests of plain trainers run without
    TRL = Version("0")

HOOKS_LIE_INSIDE_CHECKPOINTS = Version(transformers.__version__) < Version("5.23")
"""transformers checkpointed a block with its hooks: under reentrant checkpointing they ran without a gradient."""

NUM_ITEMS_COUNTS_FIRST_TOKENS = Version(transformers.__version__) < Version("5.10")
"""Trainers counted the first token of a row, which nothing predicts, among those by which they divide."""

GEMMA_3_AVERAGES_MEANS = not getattr(Gemma3ForConditionalGeneration, "accepts_loss_kwargs", True)
"""Its multimodal class took no token count, up to transformers 5.16 at least and not from 5.19 on: each micro-batch was
the mean over its own tokens, and the step the mean of these, in plain SFT too."""

CONTINUOUS_BATCHING_HAS_PAGES = Version(transformers.__version__) >= Version("5.17")
"""The benchmark of generation gives it a cache of its own size; before, the setting had another name."""

TRL_NEEDS_ITS_OWN_LOGITS = Version("1.15") > TRL
"""TRL's metrics failed, with SASFT or without, when label smoothing or `compute_loss_func` asked for plain logits."""

TRL_CAN_STEER_ROLLOUTS = Version("1.12") <= TRL
"""With older ones sae_posttrain.training.rollouts says so and goes no further."""
