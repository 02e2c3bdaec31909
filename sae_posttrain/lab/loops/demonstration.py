"""The demo's second half: a model that can loop, the features that make it, three ways to do RL, one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..shared.console import clock, conclude, quiet
from ..shared.plan import WorldPlan
from .experiment import SETTINGS, Outcome, Settings, run_arms
from .world import PLAN, World, build_world, find_features


def demonstrate(output: Path, *, seed: int = 0, settings: Settings = SETTINGS, plan: WorldPlan = PLAN) -> list[Outcome]:
    """Everything from nothing into `output`; about six minutes on two cores. `settings` is what the arms share."""
    say = clock()
    output.mkdir(parents=True, exist_ok=True)
    say("1/3 a second miniature world, whose model can copy and now and then gets stuck")
    with quiet():
        world = build_world(output, plan=plan, seed=seed, say=say)
        say(f"  {copying_line(world)}")
        say("2/3 features that grow while a loop goes on, and how strongly to steer along them")
        calibration = find_features(world, seed=seed, say=say)
        print(calibration.features.summary(), calibration.table(), sep="\n\n", flush=True)
        curve = json.dumps(calibration.to_dict(), indent=1) + "\n"
        (output / "repetition.calibration.json").write_text(curve, encoding="utf-8")
        features = calibration.calibrated()
        features.save(output / "repetition.safetensors")
        say("3/3 DAPO from one checkpoint, at equal rollout budget")
        outcomes = run_arms(world.base, features, seed, settings, output=output, say=say)
    table = outcome_table(outcomes)
    conclude(
        output,
        f"{table}\n\n{copying_line(world)}",
        seed=seed,
        settings=asdict(settings),
        world=asdict(world),
        outcomes=[asdict(outcome) for outcome in outcomes],
    )
    return outcomes


def copying_line(world: World) -> str:
    """The check that looping needs: given two periods, does the model write a third?"""
    return f"given two periods it continues {world.copies_patterns:.0%} of random patterns"


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """One line per arm."""
    temperatures = list(outcomes[0].repetition)
    head = "".join(f"{f'loops, T {temperature}':>26}" for temperature in temperatures)
    lines = [f"{'arm':<18}{head}{f'task reward, T {temperatures[-1]}':>22}{'unfinished':>12}"]
    for outcome in outcomes:
        reports = (outcome.repetition[temperature] for temperature in temperatures)
        cells = "".join(f"{f'{r.rate:.2%}  [{r.low:.2%}, {r.high:.2%}]':>26}" for r in reports)
        last = f"{outcome.task_reward[temperatures[-1]]:>22.3f}{outcome.unfinished[temperatures[-1]]:>12.2%}"
        lines.append(f"{outcome.arm:<18}{cells}{last}")
    return "\n".join(lines)
