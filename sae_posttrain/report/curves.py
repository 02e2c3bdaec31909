"""Training curves: which of a trainer's logged metrics are shown, with their titles and order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from ..artefacts import (
    CODE_SWITCHING,
    EVAL,
    LOOP_RATE,
    LOOP_RATE_ORDINARY,
    LOOP_RATE_STEERED,
    REPETITION,
    SASFT,
    SASFT_DRIFT,
    SASFT_LOSS,
    SASFT_NO_BASELINE,
    SASFT_PENALISED,
    SASFT_PRE_ACTIVATION,
    SASFT_SCRIPT_CLOSE,
    SASFT_SCRIPT_MARGIN,
    SASFT_TOKEN_LOSS,
    SASFT_UNKNOWN,
    STEERING,
    STEERING_ADVANTAGE,
    STEERING_REWARD,
    STEERING_TOKEN_SHARE,
    cost_metric,
    source_metric,
    weight_metric,
)
from .charts import Line, known, line_chart
from .run import Run, RunRow, is_number

_POLICY = "policy "
# Logged name → title and description. `*` matches any text.
_TITLES = {
    f"{EVAL}{CODE_SWITCHING}": ("Code-switching", "share of sampled answers that leave their language"),
    f"{EVAL}{REPETITION}": ("Endless repetition", "share of sampled answers that end in a loop"),
    "loss": ("Training loss", "the loss that the trainer minimises"),
    f"{EVAL}loss": ("Held-out loss", "nats per token"),
    SASFT_LOSS: ("SASFT loss", "excess of the features over their baselines, without the weight"),
    weight_metric(SASFT_LOSS): ("Weight of the SASFT loss", "found during training, within its budget"),
    cost_metric(SASFT_LOSS): ("Cost of the SASFT loss", "estimated during training, as a share of the cross-entropy"),
    weight_metric(SASFT_TOKEN_LOSS): ("Weight of the token term", "found during training, within its budget"),
    cost_metric(SASFT_TOKEN_LOSS): (
        "Cost of the token term",
        "estimated during training, as a share of the cross-entropy",
    ),
    f"{SASFT_PRE_ACTIVATION}*": ("Pre-activation: {}", "mean of the language's features on penalised tokens"),
    "reward": ("Reward", "mean over all rollouts"),
    f"{_POLICY}loss": ("Policy loss", "loss of reinforcement learning; it is around 0 by construction"),
    "rewards/*/mean": ("Reward: {}", "mean over all rollouts"),
    LOOP_RATE_ORDINARY: ("Loops, ordinary rollouts", "share that end in a loop"),
    LOOP_RATE_STEERED: ("Loops, steered rollouts", "share that end in a loop, which steering is meant to cause"),
    STEERING_REWARD: ("Reward of steered rollouts", "mean over the steered rollouts"),
    STEERING_ADVANTAGE: ("Advantage of steered rollouts", "if it is negative, their behaviour is unlearned"),
    STEERING_TOKEN_SHARE: ("Tokens of steered rollouts", "share of all tokens in the loss"),
    f"{STEERING}*": ("Steering: {}", "mean over the steered rollouts"),
    f"{LOOP_RATE}*": ("Loops: {}", "share of rollouts"),
    "completions/mean_length": ("Length of rollouts", "mean number of tokens"),
    "completions/clipped_ratio": ("Cut at the token limit", "share of rollouts"),
    "entropy": ("Entropy", "entropy of the next token, in nats"),
    SASFT_PENALISED: ("Penalised tokens", "share of the labelled tokens"),
    SASFT_UNKNOWN: ("Tokens of unknown language", "share of the labelled tokens; not penalised"),
    source_metric("by_*"): ("Language found by {}", "share of the labelled tokens"),
    SASFT_SCRIPT_MARGIN: ("Margin of the script", "mean over answers; 1 means that there is no other script"),
    SASFT_SCRIPT_CLOSE: ("Answers with an unclear script", "share of the answers identified by script"),
    SASFT_NO_BASELINE: ("Tokens without a baseline", "share of the labelled tokens; not penalised"),
    f"{SASFT_DRIFT}*": ("Drift of layer {}", "cosine distance of its mean pre-activations from the base model's"),
    f"{SASFT}*": ("SASFT: {}", ""),
}
_SHARES = ("_share", "_ratio", "_cost", f"{EVAL}{CODE_SWITCHING}", f"{EVAL}{REPETITION}", LOOP_RATE)


@dataclass(frozen=True)
class TrainingCurve:
    """The chart of one metric."""

    name: str
    title: str
    says: str
    chart: Markup


def training_curves(runs: Sequence[Run], colours: dict[str, int]) -> list[TrainingCurve]:
    """One chart for each known metric that at least one run has logged, the most important first."""
    runs = [replace(run, log=_with_policy_loss(run.log)) for run in runs]
    logged = {name for run in runs for row in run.log for name, value in row.items() if is_number(value)}
    curves = []
    for number, name in enumerate(_in_order(logged)):
        lines = [line for run in runs if (line := _line(run, name, colours[run.name])).y]
        if any(value is not None for line in lines for value in line.y) and not _all_zero(name, lines):
            title, says = _called(name)
            share = any(part in name for part in _SHARES)
            chart = line_chart(
                lines, key=f"curve{number}", about=f"{title} by training step.", x_label="step", percent=share
            )
            curves.append(TrainingCurve(name.removeprefix(_POLICY), title, says, chart))
    return curves


def _with_policy_loss(log: Sequence[RunRow]) -> list[RunRow]:
    """Rename the loss of reinforcement learning, so that it does not share a chart with cross-entropies."""
    if not any("reward" in row for row in log):
        return list(log)
    return [{f"{_POLICY}{name}" if name == "loss" else name: value for name, value in row.items()} for row in log]


def _in_order(logged: Iterable[str]) -> list[str]:
    known = [(rank, name) for name in logged if (rank := _rank(name)) is not None]
    return [name for _, name in sorted(known)]


def _rank(name: str) -> int | None:
    return next((rank for rank, pattern in enumerate(_TITLES) if _rest(name, pattern) is not None), None)


def _rest(name: str, pattern: str) -> str | None:
    """The part of the name that matches `*` in the pattern; None if the name does not match."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name)
    return None if match is None else "".join(match.groups())


def _called(name: str) -> tuple[str, str]:
    for pattern, (title, says) in _TITLES.items():
        rest = _rest(name, pattern)
        if rest is not None:
            return title.replace("{}", rest.replace("_", " ")), says
    raise AssertionError(f"{name} was ranked")


def _line(run: Run, name: str, colour: int) -> Line:
    points = [
        (step, known(row[name]))
        for number, row in enumerate(run.log)
        if is_number(row.get(name))
        and is_number(row.get("step", number))
        and (step := known(row.get("step", number))) is not None
    ]
    return Line(run.name, [step for step, _ in points], [value for _, value in points], colour)


def _all_zero(name: str, lines: Sequence[Line]) -> bool:
    """Whether a failure rate is 0 in all runs at all steps, so that its chart can be omitted."""
    return name.startswith(SASFT) and name.endswith("_share") and not any(v for line in lines for v in line.y)
