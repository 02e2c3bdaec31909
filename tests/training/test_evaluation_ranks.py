"""Rates measured by two processes together, each answering its part, beside SASFT: under DDP, FSDP2 and ZeRO-2."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from two_processes import launch

from .evaluation_ranks import PROMPTS

Outcome = tuple[dict[tuple[str, int], dict[str, Any]], str]
"""What a case reported on a process, and what the run wrote to stderr."""
WRAPPED = {"ddp": "DistributedDataParallel", "fsdp2": "FSDP", "zero2": "DeepSpeedEngine"}


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """One launch for all cases of a configuration, when the first of them asks."""

    @cache
    def run(config: str) -> Outcome:
        file = tmp_path_factory.mktemp(config) / "found.json"
        _, stderr = launch(config, "training.evaluation_ranks", config, str(file))
        parts = [file.with_suffix(f".{rank}") for rank in range(2)]
        lines = [line for part in parts if part.is_file() for line in part.read_text("utf-8").splitlines()]
        return {(found["case"], found["rank"]): found for found in map(json.loads, lines)}, stderr

    return run


@pytest.fixture
def of(outcome_of: Callable[[str], Outcome]) -> Callable[[str, str], list[dict[str, Any]]]:
    """What both processes reported of a case."""

    def both(config: str, case: str) -> list[dict[str, Any]]:
        if config.startswith("zero"):
            pytest.importorskip("deepspeed")
        found, stderr = outcome_of(config)
        assert (case, 1) in found, stderr[-4000:]
        parts = [found[case, rank] for rank in range(2)]
        assert all(part["wrapped"].startswith(WRAPPED[config]) for part in parts)
        return parts

    return both


EACH = pytest.mark.parametrize(
    ("config", "model"),
    [
        ("ddp", "LoRA"),
        pytest.param("fsdp2", "LoRA", marks=pytest.mark.slow),
        pytest.param("fsdp2", "dense", marks=pytest.mark.slow),
        pytest.param("zero2", "LoRA", marks=pytest.mark.slow),
    ],
)


@EACH
def test_the_run_does_not_change_in_any_bit(
    config: str, model: str, of: Callable[[str, str], list[dict[str, Any]]]
) -> None:
    same = ("losses", "sasft", "weights", "random")
    for plain, watched in zip(of(config, f"{model}, plain"), of(config, f"{model}, watched"), strict=True):
        assert [watched[name] for name in same] == [plain[name] for name in same]
        assert len(plain["losses"]) == len(plain["sasft"]) == 2


@EACH
def test_every_process_logs_the_rates_of_all_prompts(
    config: str, model: str, of: Callable[[str, str], list[dict[str, Any]]]
) -> None:
    first, second = of(config, f"{model}, watched")
    assert first["rates"] == second["rates"]
    assert [log["step"] for log in first["rates"]] == [0, 1, 2]
    for log in first["rates"]:
        assert log["eval_responses"] == 2 * len(PROMPTS)
        assert log["eval_code_switching"] == log["eval_code_switching_count"] / log["eval_code_switching_responses"] > 0


def test_an_error_on_one_process_costs_one_measurement(
    of: Callable[[str, str], list[dict[str, Any]]], outcome_of: Callable[[str], Outcome]
) -> None:
    """Where weights are split it ends the run instead, as the others would wait for the one that failed."""
    for failing, plain in zip(of("ddp", "LoRA, failing"), of("ddp", "LoRA, plain"), strict=True):
        assert [log["step"] for log in failing["rates"]] == [0, 2]
        assert (failing["losses"], failing["weights"]) == (plain["losses"], plain["weights"])
    assert "Step 1 is not evaluated; training continues. RuntimeError: no room on this one" in outcome_of("ddp")[1]
