"""Folders of runs with every part that a report shows, made of a few numbers and written by what writes real ones."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerState

from sae_posttrain.artefacts import CALIBRATION_CURVE, LOOP, TRAINER_STATE, UNEXPECTED
from sae_posttrain.cli import main
from sae_posttrain.data import coverage_curve, coverage_to_json
from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.feature_set import FeatureSet, LayerFeatures, Provenance
from sae_posttrain.inspection.contexts import Context, FeatureContexts, contexts_to_json
from sae_posttrain.inspection.diagnose_answers import Counted
from sae_posttrain.inspection.diagnose_cases import Case
from sae_posttrain.inspection.diagnose_features import Diagnosis
from sae_posttrain.inspection.diagnose_proof import Proof
from sae_posttrain.inspection.diagnose_suspects import Suspect
from sae_posttrain.inspection.diagnose_trials import CauseTest, TokenTest, answer_test, corrected
from sae_posttrain.inspection.diff import diff_readings
from sae_posttrain.inspection.diff_record import diff_to_json
from sae_posttrain.inspection.feature_readings import FeatureReading
from sae_posttrain.inspection.trace import LayerTrace, SwitchTrace, TraceCurve, traces_to_json
from sae_posttrain.lab.shared.record import write_numbers
from sae_posttrain.metrics import Share
from sae_posttrain.steering.curve import Calibration, Point
from sae_posttrain.training.sasft.record import take_up

Wrap = Callable[[str], str]

ANSWERS = {
    "en": ("Where does the tea come from?", "The tea that you like comes from a small {} near the river.", "village"),
    "ru": ("Откуда этот чай?", "Этот чай привозят из маленькой {} у реки, и он очень хорош.", "деревни"),
    "ko": ("이 차는 어디에서 와요?", "이 차는 강 옆의 작은 {}에서 와요.", "마을"),
}
STRAY = ["村庄", "деревня", "마을"]
PERIOD = "and then we walk to the river, "
SIZES = {"synthetic": 40, "natural": 90}
PASSAGES = {"zh": "老师在小村庄里看见一块大石头。", "en": "The teacher sees a big stone in the village."}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, share: float, *, level: float, wrap: Wrap = str, prompts: int = 60) -> Path:
    """A run whose answers switch that often; `level` moves its curves, `wrap` changes every text in it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = TrainerState(log_history=log(share, level))
    take_up(state, {"suppress": ["zh"]})
    state.save_to_json(str(folder / TRAINER_STATE))
    write_numbers(folder, {"eval_loss": 1.2 + level, "eval_runtime": 3.0})
    write_rows(folder / "answers.jsonl", answers(share, wrap, prompts))
    measure(folder / "answers.jsonl", wrap)
    return folder


def measure(path: Path, wrap: Wrap = str) -> None:
    """Measure responses as a user does, and keep what was found with them. `wrap` then changes the names in it."""
    for kind in ("code-switching", "repetition"):
        with redirect_stdout(io.StringIO()):
            assert main(["measure", kind, "--responses", str(path), "--output", str(path)]) == 0
    if wrap is str:
        return
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["language"] = wrap(row["language"])
        row[UNEXPECTED] = [{**span, "script": wrap(span["script"])} for span in row[UNEXPECTED]]
        row[LOOP] = row[LOOP] and {**row[LOOP], "text": wrap(row[LOOP]["text"])}
    write_rows(path, rows)


def log(share: float, level: float, steps: int = 40) -> list[dict[str, Any]]:
    draw = random.Random(share)
    rows: list[dict[str, Any]] = []
    for step in range(5, 5 * steps + 1, 5):
        fall = math.exp(-step / 60)
        noise = draw.gauss(0, 0.03)
        rows.append({"step": step, "epoch": step / 200, "loss": 1.2 + level + 1.5 * fall + noise, "grad_norm": 1.0})
        rows[-1] |= {"sasft_loss": (2 + level) * fall + 0.3 + abs(noise), "sasft_pre_activation_zh": -1 - level + fall}
        rows[-1] |= {"loop_rate/ordinary": max(0, share * fall + noise / 4), "loop_rate/steered": 0.9 + noise}
        rows[-1] |= {"steering/reward": -0.8 + noise, "steering/advantage": -1.6 + noise, "reward": 0.7 - fall / 2}
        if step % 50 == 0:
            rows.append({"step": step, "eval_code_switching": share * (1 + fall), "eval_repetition": share * fall})
    rows.append({"step": 5 * steps, "train_runtime": 12.0, "train_loss": 1.4})
    rows[3]["loss"] = math.nan
    return rows


def answers(share: float, wrap: Wrap, prompts: int) -> list[dict[str, Any]]:
    draw = random.Random(share)
    rows = []
    for number in range(prompts):
        language = list(ANSWERS)[number % len(ANSWERS)]
        prompt, frame, word = ANSWERS[language]
        for _ in range(4):
            stray = draw.random() < share
            foreign = [one for one in STRAY if (language, one) not in (("ru", "деревня"), ("ko", "마을"))]
            response = wrap(frame.format(draw.choice(foreign) if stray else word))
            if draw.random() < share / 2:
                response += " " + PERIOD * draw.randint(5, 20)
            asked = [{"role": "user", "content": wrap(f"{prompt} ({number})")}]
            rows.append({"prompt": asked, "language": language, "response": response})
    return rows


def features(wrap: Wrap = str, *, selection: str = "monolinguality", layers: tuple[int, ...] = (26, 27)) -> FeatureSet:
    generator = torch.Generator().manual_seed(len(selection))
    found = []
    for layer in layers:
        vectors = {name: torch.randn(4, 8, generator=generator) for name in ("encoder", "direction")}
        numbers = {name: torch.rand(4, generator=generator) * 3 + 0.2 for name in ("bias", "score", "typical")}
        means = {wrap(code): torch.rand(4, generator=generator) * (3 if code == "zh" else 0.4) for code in ("zh", "en")}
        means |= {wrap(code): torch.rand(4, generator=generator) * 0.2 for code in ("ru", "ko")}
        base = {code: -mean - 0.5 for code, mean in means.items()}
        ids = tuple(range(100 + layer, 104 + layer))
        found.append(
            LayerFeatures(layer, ids, (wrap("zh"),) * 4, **vectors, **numbers, baselines=base, activations=means)
        )
    source = Provenance(wrap("Qwen/Qwen3-1.7B-Base"), 8, 28, wrap("Qwen/SAE-Res-W32K"), {}, "", wrap(selection))
    return FeatureSet(tuple(found), source, alpha=2.5)


def contexts(feature_set: FeatureSet, wrap: Wrap = str) -> dict[str, Any]:
    return contexts_to_json(contexts_of(feature_set, wrap))


def contexts_of(feature_set: FeatureSet, wrap: Wrap = str) -> list[FeatureContexts]:
    found = []
    for layer in feature_set.layers:
        for row, feature in enumerate(layer.ids):
            passages = [
                Context(
                    wrap(group),
                    3.0,
                    tuple((wrap(piece), 3 * abs(math.sin(n * (row + 1)))) for n, piece in enumerate(text)),
                )
                for group, text in PASSAGES.items()
            ]
            found.append(FeatureContexts(layer.layer, feature, layer.targets[row], tuple(passages)))
    return found


def traces(levels: dict[str, float], wrap: Wrap = str) -> dict[str, Any]:
    """As JSON reads them back."""
    offsets = tuple(range(-10, 6))

    def curve(level: float, height: float) -> TraceCurve:
        mean = tuple(None if offset == -10 else height * level / (1 + abs(offset)) - 0.5 for offset in offsets)
        return TraceCurve(mean, tuple(None if m is None else 0.05 for m in mean), -0.5 - level / 9)

    def layers(level: float) -> tuple[LayerTrace, ...]:
        features = {feature: curve(level, 2.0 + feature % 3) for feature in (126, 127)}
        return tuple(LayerTrace(layer, wrap("zh"), curve(level, 1.0), features) for layer in (26, 27))

    made = [SwitchTrace(wrap(model), wrap("zh"), offsets, 131, 131, layers(level)) for model, level in levels.items()]
    read: dict[str, Any] = json.loads(json.dumps(traces_to_json(made)))
    return read


def calibration(*, most: float = 1.0, plain: float = 0.0) -> dict[str, Any]:
    """A curve over alpha, on which no more than `most` of the responses loop, and `plain` of them without steering."""

    def point(layers: tuple[int, ...], alpha: float, rate: float, ratio: float | None) -> Point:
        loops = Share(round(64 * rate), 64, max(0.0, rate - 0.1), min(1.0, rate + 0.1))
        return Point(layers, alpha, loops, None if ratio is None else 10 * ratio, 10.0)

    points = tuple(
        point(layers, alpha, min(most, alpha / high), None if alpha / high < 0.2 else 1 + alpha / 12)
        for layers, high in (((14,), 16.0), ((18,), 10.0), ((14, 18), 7.0))
        for alpha in (1.0, 2.0, 4.0, 8.0, 16.0)
    )
    return Calibration(features(), point((), 0.0, plain, None), points, target_rate=0.9, max_ratio=2.0).to_dict()


def model_diff(feature_set: FeatureSet, wrap: Wrap = str) -> dict[str, Any]:
    """A diff in which one feature of each layer rises; one of them is in the set."""
    names = [wrap(name) for name in ("sft", "sasft", "sft seed 1")]
    groups = tuple(wrap("zh" if unit < 8 else "en") for unit in range(16))

    def reading(name: str, seed: int, more: float) -> FeatureReading:
        rng = np.random.default_rng(seed)
        activation_UK = {layer: rng.exponential(5, size=(16, 140)) for layer in (26, 27)}
        for layer, values_UK in activation_UK.items():
            values_UK[:, 100 + layer] += more * rng.uniform(1, 2, size=16)
        sums = {layer: {"activation": one, "firing": (one > 4) * 5.0} for layer, one in activation_UK.items()}
        return FeatureReading(name, groups, np.full(16, 10.0), sums)  # type: ignore[arg-type]

    base, tuned, noise = (reading(name, seed, 60.0 * (seed == 1)) for seed, name in enumerate(names))
    found = diff_readings(base, tuned, noise=[noise], permutations=50)
    passages = contexts_of(feature_set, wrap)
    shown = [dataclasses.replace(one, feature=126 + n % 2, layer=26 + n % 2) for n, one in enumerate(passages[:2])]
    return diff_to_json(found, top=12, contexts=shown, features=feature_set)


def coverage(wrap: Wrap = str) -> dict[str, Any]:
    """Curves of two data sets."""
    rng = np.random.default_rng(0)
    sets = {wrap(name): FiringSets.of([rng.choice(200, 4) for _ in range(size)], 200) for name, size in SIZES.items()}
    curves = {
        name: coverage_curve(one, range(150), covered=range(20), budgets=[40], draws=20) for name, one in sets.items()
    }
    return coverage_to_json(curves, layer=26, targets=150, covered=20, budget=40)


def diagnosis(wrap: Wrap = str, *, proved: bool = True) -> dict[str, Any]:
    """Of ten answers, all of which loop again; the first feature's ablation cures eight. As JSON reads it back."""

    def counted(hits: int) -> Counted:
        return Counted(tuple((n, n < hits) for n in range(10)))

    def trial(members: tuple[tuple[int, int], ...], hits: int) -> CauseTest:
        down, up = [counted(hits), counted(9), counted(9), counted(4)], [counted(7), counted(1), counted(1), counted(6)]
        token = TokenTest(0.1, (0.97, 0.9), 0.2, 1.0, 0.01, 0.01)
        return CauseTest(members, 10, answer_test(down, up, dense=True), token)

    both = ((26, 126), (27, 128))
    trials = (trial(both[:1], 2), trial(both[1:], 9), trial(both, 1))
    examples = ((wrap("Where is the river?"), wrap("There. " * 90), wrap("Behind the hill.")),)
    before, good_before = counted(10).share, counted(0).share
    proof = Proof("answers", 10, before, good_before, 0.4, corrected(trials), 1.0, 4.0, 2, examples)
    pieces = tuple((wrap(piece), 3 * abs(math.sin(n))) for n, piece in enumerate(PASSAGES["en"]))
    suspects = tuple(Suspect(layer, one, 2.0 - n, 0.4 - n / 5, 2.5, 0.5, pieces) for n, (layer, one) in enumerate(both))
    ranked = features(selection="diagnosis")
    kept = replace(ranked, layers=(ranked.layers[0].take([0]),)) if proved else None
    found = Diagnosis(
        *(wrap("repetition"), suspects, (Case("p", "r"),) * 10, 12, ranked, proof if proved else None, kept),
        model=wrap("Qwen/Qwen3-1.7B-Base"),
        sae=wrap("Qwen/SAE-Res-W32K"),
    )
    read: dict[str, Any] = json.loads(json.dumps(found.to_dict()))
    return read


def write_runs(folder: Path, wrap: Wrap = str) -> list[Path]:
    """Two runs with all there is."""
    sft = write_run(folder / "sft", 0.12, level=0.1, wrap=wrap)
    sasft = write_run(folder / "sasft", 0.04, level=0.0, wrap=wrap)
    chosen = features(wrap)
    chosen.save(sasft / "features.safetensors")
    features(selection="random").save(sasft / "control.safetensors")
    write_json(sasft / "contexts.json", contexts(chosen, wrap))
    write_json(sasft / "trace.json", traces({"base model": 1.4, "sft": 1.2, "sasft": 0.3}, wrap))
    write_json(sasft / f"repetition{CALIBRATION_CURVE}", calibration())
    write_json(sasft / "diff.json", model_diff(chosen, wrap))
    write_json(sasft / "coverage.json", coverage(wrap))
    write_json(sasft / "diagnosis.json", diagnosis(wrap))
    return [sft, sasft]
