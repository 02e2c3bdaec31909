"""The demo's second half: a model that loops, the features that cause loops, three variants of RL, and one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...artefacts import CALIBRATION_CURVE
from ..shared.console import clock, conclude, quiet
from ..shared.jobs import Jobs, at_once, one_thread
from ..shared.plan import WorldPlan
from ..shared.record import write_json
from .experiment import BENCHMARK, DEMO, Outcome, Settings, measure_base, outcome_line, run_arms
from .world import World, build_world, find_features, open_world

FEATURES = "repetition.safetensors"


def demonstrate(
    output: Path,
    *,
    seed: int = 0,
    settings: Settings = DEMO,
    plan: WorldPlan | None = None,
    jobs: Jobs = at_once,
) -> list[Outcome]:
    """Find repetition features, calibrate them, train three arms and measure them. All files are written to `output`.

    It takes about two minutes on two cores.

    Args:
        output: folder to write to.
        seed: random seed of the training data, its order and the prompts for discovery. If the base model is trained,
            it is its seed too.
        settings: settings that all arms share.
        plan: how to train the base model and its SAEs. Default: use those that ship with the package.
        jobs: function that starts the arms.

    Returns: the measurements of the base model and of each arm.
    """
    say = clock()
    output.mkdir(parents=True, exist_ok=True)
    say("1/3 a second miniature world, with a model that can copy and sometimes loops")
    with one_thread(), quiet():
        world = open_world(output, say=say) if plan is None else build_world(output, plan=plan, seed=seed, say=say)
        say(f"  {copying_line(world)}")
        say("2/3 features that become more active during a loop, and how strongly to steer along them")
        base = jobs(measure_base, world.base, settings, output=output)
        print(jobs(calibrate_into, world, output, seed=seed).result(), flush=True)
        before = base.result()
        say(f"  {outcome_line(before)}")
        say(f"3/3 DAPO from one checkpoint, at equal rollout budget: {settings.steps} steps each")
        features = output / FEATURES
        outcomes = [before, *run_arms(world.base, features, seed, settings, output=output, jobs=jobs, say=say)]
    conclude(
        output,
        f"{outcome_table(outcomes)}\n{basis_line(settings)}\n\n{copying_line(world)}",
        seed=seed,
        settings=asdict(settings),
        world=asdict(world),
        outcomes=[asdict(outcome) for outcome in outcomes],
    )
    return outcomes


def calibrate_into(world: World, output: Path, *, seed: int) -> str:
    """Find the features and their strength, save both in `output`, and return a summary."""
    lines: list[str] = []
    calibration = find_features(world, seed=seed, say=lines.append)
    write_json(output / f"repetition{CALIBRATION_CURVE}", calibration.to_dict())
    calibration.calibrated().save(output / FEATURES)
    return "\n\n".join([*lines, calibration.features.summary(), calibration.table()])


def basis_line(settings: Settings) -> str:
    """A sentence about the sample sizes behind the table's numbers."""
    return (
        f"One world, {settings.measured * settings.samples:,} answers per rate, with 95% intervals. "
        f"benchmarks/README.md has three worlds and {3 * BENCHMARK.measured * BENCHMARK.samples:,} answers for each."
    )


def copying_line(world: World) -> str:
    """A line about the ability to loop: how often the model continues two periods with a third."""
    return f"given two periods it continues {world.copies_patterns:.0%} of random patterns"


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """One line per arm."""
    temperatures = list(outcomes[0].repetition)
    head = "".join(f"{f'loops, T {temperature}':>26}" for temperature in temperatures)
    lines = [f"{'arm':<18}{head}{f'task reward, T {temperatures[-1]}':>22}{'unfinished':>12}"]
    for outcome in outcomes:
        shares = (outcome.repetition[temperature].loops for temperature in temperatures)
        cells = "".join(f"{f'{r.rate:.2%}  [{r.low:.2%}, {r.high:.2%}]':>26}" for r in shares)
        last = f"{outcome.task_reward[temperatures[-1]]:>22.3f}{outcome.unfinished[temperatures[-1]]:>12.2%}"
        lines.append(f"{outcome.arm:<18}{cells}{last}")
    return "\n".join(lines)
