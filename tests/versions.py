"""What differs between the supported versions of TRL and transformers, so that tests can say what to expect."""

import transformers
import trl
from packaging.version import Version

HOOKS_LIE_INSIDE_CHECKPOINTS = Version(transformers.__version__) < Version("5.23")
"""transformers checkpointed a block with its hooks: under reentrant checkpointing they ran without a gradient."""

CONTINUOUS_BATCHING_HAS_PAGES = Version(transformers.__version__) >= Version("5.17")
"""The benchmark of generation gives it a cache of its own size; before, the setting had another name."""

TRL_NEEDS_ITS_OWN_LOGITS = Version(trl.__version__) < Version("1.15")
"""TRL's metrics failed, with SASFT or without, when label smoothing or `compute_loss_func` asked for plain logits."""

TRL_CAN_STEER_ROLLOUTS = Version(trl.__version__) >= Version("1.12")
"""With older ones sae_posttrain.training.rollouts says so and goes no further."""
