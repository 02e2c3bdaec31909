"""What steered rollouts rely on in TRL beyond its documented surface: each test says what moved."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pandas
import pytest
from trl import GRPOTrainer, RLOOTrainer

from sae_posttrain.cli import main
from sae_posttrain.texts import load_rows

from .world import Watched, plain

TRAINERS = pytest.mark.parametrize("trainer", [GRPOTrainer, RLOOTrainer])


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]


@TRAINERS
def test_the_methods_that_are_overridden(trainer: type) -> None:
    moved = f"{trainer.__name__}.{{}} has other parameters; training/rollouts overrides it"
    expected = {
        "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"],
        "_generate_and_score_completions": ["inputs"],
        "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
        "_compute_loss": ["model", "inputs"],
    }
    for name, given in expected.items():
        assert parameters(getattr(trainer, name))[: len(given)] == given, moved.format(name)


def test_what_rloo_scores() -> None:
    expected = ["model", "input_ids", "attention_mask", "logits_to_keep"]
    found = parameters(RLOOTrainer._get_per_token_logps_and_entropies)
    assert found[:4] == expected, "RLOOTrainer scores by other parameters; training/rollouts overrides it"


@TRAINERS
def test_what_is_read_and_called(trainer: type) -> None:
    source = inspect.getsource(trainer)
    for name in ("_step", "_tokenizer", "_dist", "_logs", "_metrics", "use_vllm", "model_wrapped"):
        assert f"self.{name}" in source, f"{trainer.__name__}.{name} moved"
    for name in ("_log_completion_extra", "_log_metric", "_tokenize_prompts"):
        assert callable(getattr(trainer, name, None)), f"{trainer.__name__}.{name} moved"


def test_its_tables_of_completions_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written by TRL, and read by `measure` one by one or as a folder."""
    Watched(plain(tmp_path, log_completions=True, max_steps=2)).trained()
    folder = tmp_path / "completions"
    rows = pandas.concat([pandas.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    capsys.readouterr()
    found = []
    for source in (folder, sorted(folder.glob("*.parquet"))[-1]):
        options = ["--responses", str(source), "--output", str(tmp_path / "out.jsonl")]
        assert main(["measure", "repetition", *options]) == 0
        found.append([(row["step"], row["prompt"], row["response"]) for row in load_rows(tmp_path / "out.jsonl")])
    expected = list(rows[["step", "prompt", "completion"]].itertuples(index=False, name=None))
    assert found == [expected, expected[len(expected) // 2 :]]


@TRAINERS
def test_one_attribute_says_whether_overlong_completions_are_filtered(trainer: Any) -> None:
    source = inspect.getsource(trainer._generate_and_score_completions)
    assert "if self.mask_truncated_completions:" in source, "training/rollouts switches this off to do it itself"


def test_tools_go_on_through_the_same_method() -> None:
    source = inspect.getsource(GRPOTrainer._tool_call_loop)
    assert "self._generate_single_turn(" in source, "training/rollouts steers the first of these calls alone"


def test_tokens_are_weighed_before_their_weights_are_read() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    scored = source.index("self._get_per_token_logps_and_entropies(")
    for name in ('inputs["advantages"]', 'inputs.get("old_per_token_logps")'):
        assert scored < source.index(name), f"{name} is read too early for training/rollouts to weigh by it"
    assert "advantages.dim() == 1" in source, "advantages of each token are no longer taken"
