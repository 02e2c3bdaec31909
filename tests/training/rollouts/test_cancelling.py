"""What would cancel a steered row leaves it alone: each time its gradient is looked at, and what else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .vllm import as_if_vllm_had_generated
from .world import GROUP, LENGTH, LOOP, Watched, plain, rloo, steered, steered_rloo


def learns(watched: Watched) -> list[bool]:
    """For each row of the last batch, whether its loss has a gradient."""
    return [bool(watched.gradient([row]).abs().max() > 0) for row in range(GROUP)]


def test_overlong_filtering_spares_the_steered_row_and_filters_the_others_as_ever(tmp_path: Path) -> None:
    settings = {"mask_truncated_completions": True, "max_completion_length": 5, "seed": 7}
    expected = Watched(plain(tmp_path, **settings)).once()["completion_mask"]
    found = Watched(steered(tmp_path, **settings))
    made = found.once()
    ended = expected.any(dim=1).tolist()
    assert sorted(ended[1:]) == [False, False, True], "this seed should show both"
    assert made["completion_mask"][0].all()
    assert torch.equal(made["completion_mask"][1:], expected[1:])
    assert made["num_items_in_batch"] == made["completion_mask"].sum()
    assert learns(found) == [True, *ended[1:]]


def test_overlong_filtering_leaves_rloos_divergence_as_it_was(tmp_path: Path) -> None:
    """RLOO takes it off the rewards, and of filtered rows it takes nothing. The marked row here ends by itself."""
    settings = {"mask_truncated_completions": True, "max_completion_length": 5}
    for seed in range(20):
        expected = Watched(rloo(tmp_path, seed=seed, **settings)).once()
        ended = expected["completion_mask"].any(dim=1)
        if ended[0] and not ended.all():
            break
    made = Watched(steered_rloo(tmp_path, steering_control="extra_plain", seed=seed, **settings)).once()
    assert (made["steered_tokens"] > 0).tolist() == [True, False, False, False]
    for name in ("completion_mask", "old_logps", "advantages"):
        assert torch.equal(made[name], expected[name]), name


def test_overlong_filtering_spares_rloos_steered_row(tmp_path: Path) -> None:
    settings = {"mask_truncated_completions": True, "max_completion_length": 5}
    found = Watched(steered_rloo(tmp_path, **settings))
    made = found.once()
    assert made["completion_mask"][0].all()
    assert made["old_logps"][0] != 0
    assert learns(found)[0]


def test_the_off_policy_mask_spares_the_steered_row(tmp_path: Path) -> None:
    """Two passes over one batch, and weights that moved far in between: disliked rows have become unlikely."""
    settings = {"num_iterations": 2, "off_policy_mask_threshold": 1e-6, "epsilon": 1e6, "max_steps": 1}
    found = Watched(steered(tmp_path, **settings)).trained()
    made = found.generated[-1]
    assert (made["advantages"] < 0).tolist()[0]
    assert learns(found)[0]
    made["sampling_per_token_logps"] = made["old_per_token_logps"]
    assert not learns(found)[0], "without its exemption it would be dropped"


def test_a_steered_row_counts_for_its_share_of_the_tokens_at_most(tmp_path: Path) -> None:
    free, capped = (
        Watched(steered(tmp_path, loss_type="dapo", max_steps=1, max_steered_token_share=share)) for share in (1.0, 0.1)
    )
    free.once()
    made = capped.once()
    tokens = made["completion_mask"].sum(dim=1).float()
    ordinary = tokens[1:].sum()
    counted = ordinary / 9  # a tenth of all
    assert made["num_items_in_batch"].item() == pytest.approx((ordinary + counted).item())
    ratio = tokens.sum() / made["num_items_in_batch"]
    torch.testing.assert_close(capped.gradient([1, 2, 3]), ratio * free.gradient([1, 2, 3]))
    torch.testing.assert_close(capped.gradient([0]), ratio * counted / LENGTH * free.gradient([0]))


COMPLETIONS = [[4, 5, 6, 1], [5, 6, 7, 8, 1], [6, 7, 1], [7, 8, 9, 10, 11, 1]]


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_vllms_rows_stay_and_the_steered_is_generated_again_with_weight_one(mode: str, tmp_path: Path) -> None:
    found = as_if_vllm_had_generated(steered(tmp_path, vllm_importance_sampling_mode=mode), COMPLETIONS)
    made = found.once()
    assert found.texts[0] == LOOP
    ids = found.trainer.processing_class.batch_decode(COMPLETIONS, skip_special_tokens=True)
    assert found.texts[1:] == ids[1:]
    ratio = made["importance_sampling_ratio"]
    assert (ratio[0] == 1).all()
    assert not (ratio[1:] == 1).all()
    assert learns(found)[0]


def test_without_its_exemption_vllms_correction_cancels_the_steered_row(tmp_path: Path) -> None:
    """The log-probabilities it was sampled with, in place of missing ones: its weight is next to nothing."""
    found = as_if_vllm_had_generated(steered(tmp_path, off_policy="truncated_is"), COMPLETIONS)
    made = found.once()
    differences = made["old_per_token_logps"][0] - made["steered_per_token_logps"][0]
    assert differences.sum().exp() < 1e-3


def test_rows_are_generated_again_beside_continuous_batching(tmp_path: Path) -> None:
    """The real thing, which transformers runs on CPU as well."""
    memory = {"num_blocks": 64, "max_batch_tokens": 64}
    made = steered(tmp_path, use_transformers_continuous_batching=True, transformers_continuous_batching_config=memory)
    found = Watched(made).trained()
    assert [text == LOOP for text in found.texts] == [True, False, False, False]
    assert learns(found)[0]
    assert made.use_transformers_continuous_batching
