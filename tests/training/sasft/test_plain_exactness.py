"""Every way to train with a plain `transformers.Trainer`, by the standard of `test_exactness.py`; runs without TRL."""

from typing import Any

import pytest
from torch import equal

from .exactness import errors_of_the_addition, record
from .plain import PLAIN_ROWS, with_plain, without
from .world import World

ADAM = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 3}


cells = [pytest.param(name, marks=[pytest.mark.slow] if row.slow else []) for name, row in PLAIN_ROWS.items()]


@pytest.mark.parametrize("name", cells)
def test_what_is_added_is_the_auxiliary_gradient(name: str, world: World) -> None:
    errors = errors_of_the_addition(world, with_plain, PLAIN_ROWS[name])
    for term, error in errors.items():
        record(name, with_plain, error, term)
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("padded", marks=pytest.mark.slow),
        "reentrant checkpointing, accumulation",
        "multipack (nested lists)",
        pytest.param("logits_to_keep, mask", marks=pytest.mark.slow),
    ],
)
def test_zero_weight_is_the_plain_run_bit_for_bit(name: str, world: World) -> None:
    row = PLAIN_ROWS[name]
    settings: dict[str, Any] = {**row.settings, **ADAM, "dataset": row.data(world)[0]}
    ours = world.run(with_plain, weight=0.0, token_weight=0.0, token_share=0.5, **settings)
    theirs = world.run(without, **settings)
    ours.train()
    theirs.train()
    weights = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    assert all(equal(mine, other) for mine, other in weights)
    first, expected = ours.state.log_history[0], theirs.state.log_history[0]
    assert first["loss"] == expected["loss"]
    assert first["sasft_loss"] > 0
    assert first["sasft_token_loss"] > 0
    record("weight 0: weights after 3 steps", with_plain, "bit-identical")
