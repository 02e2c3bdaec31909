"""What a checkpoint says of the SASFT run that made it, and whether a resumed run goes on from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerState

logger = logging.getLogger(__name__)

KEY = "SASFT"
"""Where it stands in `trainer_state.json`, under `stateful_callbacks`."""


def take_up(state: TrainerState, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare a run with the checkpoint it resumes from, and put its record into the checkpoints to come.

    Returns:
        the checkpoint's refreshed baselines; None where it has none of these features.

    Raises:
        ValueError: the checkpoint was trained with other features.
    """
    earlier = state.stateful_callbacks.get(KEY)
    state.stateful_callbacks[KEY] = dict(record)
    if earlier is None:
        if state.global_step > 0:
            logger.warning("The checkpoint was trained without SASFT; from step %d on it has it.", state.global_step)
        return None
    if earlier["features_sha256"] != record["features_sha256"]:
        raise ValueError(
            f"The checkpoint was trained with a feature set of sha256 {earlier['features_sha256'][:12]}…, and this "
            f"run's has {record['features_sha256'][:12]}…. Resume with the file that the run began with, or start a "
            "new run from the checkpoint's weights."
        )
    for name, value in record.items():
        if earlier.get(name) != value:
            logger.warning("SASFT's %s was %r in the checkpoint and is %r now.", name, earlier.get(name), value)
    # Other languages to keep out are other features.
    return earlier.get("refresh") if set(earlier["suppress"]) == set(record["suppress"]) else None
