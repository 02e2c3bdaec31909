"""Does steered DAPO loop half as often as DAPO at an equal rollout budget, and a random direction not?

    python benchmarks/lab_grpo.py [--worlds 0 1 2]

For each world of the lab (another base model, other SAEs, other features, other data): DAPO, steered DAPO, a random
direction and one more plain rollout, from one checkpoint, measured on the same held-out prompts at two temperatures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

from _rows import Row, write

from sae_posttrain.lab.loops.experiment import ARMS, BENCHMARK, Outcome, measure_base, outcome_line, run_arms
from sae_posttrain.lab.loops.world import World, build_world, find_features
from sae_posttrain.lab.shared.console import quiet
from sae_posttrain.steering import Calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2], help="their seeds (0 1 2)")
    worlds = parser.parse_args().worlds
    rows: list[Row] = []
    for seed in worlds:
        with quiet(), tempfile.TemporaryDirectory() as scratch:
            world = build_world(Path(scratch), seed=seed)
            calibration = find_features(world, seed=seed)
            print(calibration.table(), flush=True)
            rows += world_rows(seed, world, calibration)
            features = calibration.calibrated().save(Path(scratch) / "repetition.safetensors")
            outcomes = [measure_base(world.base, BENCHMARK)]
            outcomes += run_arms(world.base, features, seed, BENCHMARK, arms=list(ARMS), say=print)
            for outcome in outcomes:
                rows += outcome_rows(seed, outcome)
                print(f"world {seed}, {outcome_line(outcome)}", flush=True)
        write("lab_grpo", rows)  # some worlds are better than none
    print(f"Wrote {write('lab_grpo', rows + summary_rows(rows, worlds))}")


def world_rows(seed: int, world: World, calibration: Calibration) -> list[Row]:
    """What the base model is, and how it is steered."""
    case, best = f"world {seed}", calibration.best
    rows = [
        Row(case, "parameters", world.parameters, "1"),
        Row(case, "continues a pattern given two periods", world.copies_patterns, "share"),
        *(Row(case, f"variance unexplained, layer {n}", share, "share") for n, share in world.unexplained.items()),
    ]
    if best is not None:
        rows += [
            Row(case, "alpha", best.alpha, "typical strengths"),
            Row(case, "steered answers that loop", best.rate, "share of responses"),
            Row(case, "perplexity before the loop against unsteered", best.ratio or 0.0, "ratio"),
        ]
    return rows


def outcome_rows(seed: int, outcome: Outcome) -> list[Row]:
    """One arm's rates and rewards."""
    case = f"world {seed}, {outcome.arm}"
    rows = []
    for temperature, report in outcome.repetition.items():
        loops = report.loops
        for name, value in (("", loops.rate), (", low", loops.low), (", high", loops.high)):
            rows.append(Row(case, f"loops at temperature {temperature}{name}", value, "share of responses"))
        rows += [
            Row(case, f"responses at temperature {temperature}", loops.total, "1"),
            Row(case, f"task reward at temperature {temperature}", outcome.task_reward[temperature], "reward"),
            Row(
                case, f"unfinished at temperature {temperature}", outcome.unfinished[temperature], "share of responses"
            ),
        ]
    return rows


def summary_rows(rows: list[Row], worlds: list[int]) -> list[Row]:
    """Means over the worlds, and each arm's loops against DAPO's."""
    value = {(row.case, row.measure): row.value for row in rows}
    measures = [m for m in dict.fromkeys(row.measure for row in rows) if m.startswith(("loops", "task", "unfinished"))]
    measures = [m for m in measures if not m.endswith(("low", "high"))]

    def mean(arm: str, measure: str) -> float:
        return fmean(value[f"world {seed}, {arm}", measure] for seed in worlds)

    summary = []
    for arm in ("before RL", *ARMS):
        for measure in measures:
            summary.append(Row(f"mean of worlds, {arm}", measure, mean(arm, measure), "mean"))
            if measure.startswith("loops") and mean("DAPO", measure):
                ratio = mean(arm, measure) / mean("DAPO", measure)
                summary.append(Row(f"mean of worlds, {arm}", f"{measure} against DAPO", ratio, "ratio"))
    for row in summary:
        print(f"{row.case}: {row.measure} {row.value:.4f}")
    return summary


if __name__ == "__main__":
    main()
