"""The record of a SASFT run in its checkpoints, and the comparison with it when a run is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerState

from ...artefacts import SASFT_STATE, SUPPRESS

logger = logging.getLogger(__name__)

KEY = SASFT_STATE
_FILES = {"features_sha256": "feature set", "token_counts_sha256": "file of token counts"}
_STATE = ("refresh", "weights", "auto")
"""Keys of the record that are not settings but state that develops during the run."""


def take_up(state: TrainerState, record: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a run with the checkpoint it resumes from, and put its record into later checkpoints.

    Args:
        record: the settings of every term, with `suppress`.

    Returns:
        The checkpoint's record, without the weights of terms whose `weight` setting has changed. It is empty if there
        is no record, or if its suppressed languages differ.

    Raises:
        ValueError: the checkpoint was trained with another feature set or other token counts.
    """
    earlier = state.stateful_callbacks.get(KEY)
    state.stateful_callbacks[KEY] = dict(record)
    if earlier is None:
        if state.global_step > 0:
            logger.warning(
                "The checkpoint was trained without SASFT. From step %d on, the run uses SASFT.", state.global_step
            )
        return {}
    for name, kind in _FILES.items():
        before, now = earlier.get(name), record.get(name)
        if before is not None and now is not None and before != now:
            raise ValueError(
                f"The checkpoint was trained with a {kind} with sha256 {before[:12]}…; this run's has {now[:12]}…. "
                "Resume with the original file, or start a new run from the checkpoint's weights."
            )
    changed = [name for name in {**earlier, **record} if name not in _STATE and earlier.get(name) != record.get(name)]
    for name in changed:
        logger.warning("SASFT's %s was %r in the checkpoint and is %r now.", name, earlier.get(name), record.get(name))
    if set(earlier[SUPPRESS]) != set(record[SUPPRESS]):
        return {}  # other suppressed languages have other features, so the old state does not apply
    setting_of = {"features": "weight", "tokens": "token_weight"}
    kept = {
        kind: {
            name: value for name, value in earlier.get(kind, {}).items() if setting_of.get(name, name) not in changed
        }
        for kind in ("weights", "auto")
    }
    return {**earlier, **kept}
