"""Groups split over two processes, under DDP and FSDP2: one steered row each, and nothing else moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from two_processes import launch

from .ranks import COMPLETIONS, SETTINGS
from .world import GROUP, LENGTH, LOOP, Watched, steered, tokenizer, varied

Outcome = tuple[dict[tuple[str, int], dict[str, Any]], str]
"""What a case reported on a process, and what the run wrote to stderr."""
CONFIGS = ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """One launch for all cases of a configuration, when the first of them asks."""

    @cache
    def run(config: str) -> Outcome:
        file = tmp_path_factory.mktemp(config) / "found.json"
        _, stderr = launch(config, "training.rollouts.ranks", config, str(file))
        parts = [file.with_suffix(f".{rank}") for rank in range(2)]
        lines = [line for part in parts if part.is_file() for line in part.read_text("utf-8").splitlines()]
        return {(found["case"], found["rank"]): found for found in map(json.loads, lines)}, stderr

    return run


@pytest.fixture(params=CONFIGS)
def of(request: pytest.FixtureRequest, outcome_of: Callable[[str], Outcome]) -> Callable[[str], list[dict[str, Any]]]:
    """What both processes reported of a case."""

    def both(case: str) -> list[dict[str, Any]]:
        found, stderr = outcome_of(request.param)
        assert (case, 1) in found, stderr[-4000:]
        return [found[case, rank] for rank in range(2)]

    return both


def together(parts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The batches of both processes as one: prompts are padded on the left, completions on the right."""
    joined = {}
    for name in parts[0]:
        values = [torch.tensor(part[name]) for part in parts]
        if values[0].ndim == 2:
            side = "left" if name.startswith("prompt") else "right"
            rows = [row for value in values for row in value]
            joined[name] = pad_sequence(rows, batch_first=True, padding_side=side)
        else:
            joined[name] = torch.cat(values) if values[0].ndim else values[0]
    return joined


def batches(case: list[dict[str, Any]], field: str = "texts") -> list[list[Any]]:
    """Each generation's rows in their global order."""
    return [first + second for first, second in zip(*(part[field] for part in case), strict=True)]


@pytest.mark.parametrize("case", ["steered, split", "steered, whole", "LoRA, split"])
def test_each_group_has_exactly_one_steered_row(case: str, of: Callable[[str], list[dict[str, Any]]]) -> None:
    found = of(case)
    for texts, marked in zip(batches(found), batches(found, "marked"), strict=True):
        assert [text == LOOP for text in texts] == marked == ([True] + [False] * (GROUP - 1)) * (len(texts) // GROUP)


@pytest.mark.parametrize("how", ["split", "whole"])
def test_the_other_rows_are_as_without_steering(how: str, of: Callable[[str], list[dict[str, Any]]]) -> None:
    found, expected = batches(of(f"steered, {how}"))[0], batches(of(f"plain, {how}"))[0]
    assert [row for row in range(len(found)) if found[row] != expected[row]] == list(range(0, len(found), GROUP))


def test_without_steered_rollouts_it_is_plain_grpo(of: Callable[[str], list[dict[str, Any]]]) -> None:
    found, expected = of("none, split"), of("plain, split")
    assert batches(found) == batches(expected)
    assert [part["weights"] for part in found] == [part["weights"] for part in expected]


@pytest.mark.parametrize("case", ["steered, split", "truncated_is, split", "outside, capped, split"])
def test_two_processes_take_the_step_of_one(
    case: str, of: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The gradient of the same rollouts, in one process and one batch."""
    found = of(case)
    alone = Watched(steered(tmp_path, **SETTINGS[case]))
    alone.trainer.current_gradient_accumulation_steps = 1
    alone.trainer.model.train()
    alone.generated = [together([part["first"] for part in found])]
    norm = alone.gradient(range(GROUP)).norm().item()
    assert [part["logged"]["grad_norm"] for part in found] == pytest.approx([norm] * 2, rel=1e-4)


def test_what_is_logged_is_of_all_processes(of: Callable[[str], list[dict[str, Any]]]) -> None:
    found = of("steered, split")
    texts, log = batches(found)[0], found[0]["logged"]
    rewards = torch.tensor(varied(texts))
    assert log["loop_rate/steered"] == 1.0
    assert log["loop_rate/ordinary"] == 0.0
    assert log["steering/reward"] == rewards[0]
    assert log["steering/token_share"] == pytest.approx(LENGTH / sum(batches(found, "lengths")[0]))
    assert log["steering/advantage"] == pytest.approx(((rewards[0] - rewards.mean()) / (rewards.std() + 1e-4)).item())


def test_baseline_and_cap_are_of_the_whole_group(of: Callable[[str], list[dict[str, Any]]]) -> None:
    """One group over both processes, and the steered row on the first: the second's rows are compared alike."""
    found = of("outside, capped, split")
    rewards, ordinary = torch.tensor(varied(batches(found)[0])), sum(batches(found, "lengths")[0][1:])
    counted = ordinary / 9  # a tenth of all
    assert [part["counted"][0] for part in found] == pytest.approx([ordinary + counted] * 2)
    plain = rewards[1:]
    expected = [(rewards[0] - plain.mean()) / (rewards.std() + 1e-4) * counted / LENGTH]
    expected += list((plain - plain.mean()) / (plain.std() + 1e-4))
    assert batches(found, "advantages")[0] == pytest.approx([float(value) for value in expected], rel=1e-5)


def test_only_the_process_with_a_steered_row_generates_again(of: Callable[[str], list[dict[str, Any]]]) -> None:
    texts = tokenizer().batch_decode(COMPLETIONS, skip_special_tokens=True)
    assert batches(of("vLLM, split")) == [[LOOP, texts[1], *texts]] * 2
