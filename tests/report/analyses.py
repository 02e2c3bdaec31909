"""A folder with the files of `discover class` and of `data`, by their own writers, from planted firing sets."""

from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_posttrain.artefacts import CLASSES
from sae_posttrain.cli import main
from sae_posttrain.cli.data import overlap, redundancy, select
from sae_posttrain.data.class_results import ALWAYS, RANDOM, RULE, ClassTest, discovery_to_json
from sae_posttrain.data.learning_curve import learning_curve
from sae_posttrain.discovery.classes import ClassDiscovery
from sae_posttrain.discovery.firing import FiringSets
from sae_posttrain.discovery.or_rule import choose_rule
from sae_posttrain.metrics.detection import Detection

from .runs import Wrap, features, write_json, write_rows

READING = ["--model", "none", "--sae", "none", "--layer", "1"]
NAMES = ("gsm8k", "theoremqa", "humaneval")


def planted_sets(seed: int, examples: int, first: int, last: int, d_sae: int = 90) -> FiringSets:
    """Examples that fire some of the features from `first` to `last`, the early ones more often."""
    rng = np.random.default_rng(seed)
    rate_K = np.zeros(d_sae)
    rate_K[first:last] = 0.3 / (1 + np.arange(last - first) / 4)
    return FiringSets.of((np.flatnonzero(rng.random(d_sae) < rate_K) for _ in range(examples)), d_sae, layer=1)


def write_benchmarks(folder: Path) -> None:
    """overlap.json, redundancy.json and selection.json, as the commands write them."""
    sets = {name: planted_sets(n, 60 - 20 * n, 15 * n, 45 + 15 * n) for n, name in enumerate(NAMES)}
    named = [f"{name}={name}.jsonl" for name in NAMES]
    rng = np.random.default_rng(0)
    by_example = {name: folder / "scores" / f"{name}.jsonl" for name in NAMES}
    for name, path in by_example.items():
        kept = [
            {"model": f"m{m}", "example": e, "score": int(rng.random() < 0.2 + 0.2 * m)}
            for m in range(4)
            for e in range(1, len(sets[name]) + 1)
        ]
        write_rows(path, kept)
    scores = [{"model": f"m{m}", "benchmark": name, "score": rng.random()} for m in range(5) for name in NAMES]
    write_rows(folder / "scores" / "all.jsonl", scores)
    rows = [{"text": f"row {e} of this file"} for e in range(60)]
    write_rows(folder / "scores" / "rows.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        for command in (overlap, redundancy):
            patch.setattr(command, "collect", lambda *given: sets)
        patch.setattr(select, "collect", lambda *given: {"": sets["gsm8k"]})
        patch.setattr(select, "_lengths", lambda args: [len(row["text"]) for row in rows])
        output = ["--output", str(folder / "overlap.json"), "--scores", str(folder / "scores" / "all.jsonl")]
        assert main(["data", "overlap", *named, *output, *READING]) == 0
        output = ["--output", str(folder / "redundancy.json"), "--scores"]
        output += [f"{name}={path}" for name, path in by_example.items()]
        assert main(["data", "redundancy", *named, *output, *READING]) == 0
        chosen = ["--n", "20", "--output", str(folder / "scores" / "chosen.jsonl")]
        chosen += ["--curve", str(folder / "selection.json")]
        assert main(["data", "select", str(folder / "scores" / "rows.jsonl"), *chosen, *READING]) == 0


def class_discovery(target: str = "toxic") -> tuple[ClassDiscovery, dict[str, list[ClassTest]]]:
    """One class in two layers, with tests in two languages."""
    rng = np.random.default_rng(3)

    def read(examples: int, clarity: float) -> tuple[dict[int, FiringSets], np.ndarray]:
        positive_E = np.arange(examples) % 2 == 0
        rate_EK = np.full((examples, 60), 0.05)
        rate_EK[positive_E, :12] += clarity
        return {
            layer: FiringSets.of(
                (np.flatnonzero(row) for row in rng.random(rate_EK.shape) < rate_EK / layer), 60, layer
            )
            for layer in (1, 2)
        }, positive_E

    firing, positive_E = read(200, 0.3)
    held_out_E = np.arange(200) % 5 < 1
    held_out_E[:2] = True
    rule = choose_rule(firing, positive_E, held_out_E, target=target)
    labels = tuple(target if one else "clean" for one in positive_E)
    found = ClassDiscovery(features(), (rule,), firing, labels, held_out_E)
    tests = []
    for name, clarity in (("en", 0.3), ("de", 0.1)):
        test, actual_E = read(120, clarity)
        said = {RULE: rule.detects(test), RANDOM: rng.random(120) < 0.3, ALWAYS: np.ones(120, dtype=bool)}
        detections = {method: Detection.of(fires_E, actual_E) for method, fires_E in said.items()}
        curve = learning_curve(firing, positive_E, test, actual_E, draws=3)
        tests.append(ClassTest(name, target, detections, {RULE: (1,), RANDOM: (1,), ALWAYS: ()}, tuple(curve)))
    return found, {target: tests}


def write_analyses(folder: Path, wrap: Wrap = str) -> Path:
    """All files in one folder; `wrap` changes every name and token in them."""
    write_benchmarks(folder)
    found, tests = class_discovery()
    tokens = {("toxic", one.layer, one.feature): Counter({"fool": 9, "!": 4}) for one in found.rules[0].features}
    write_json(folder / f"toxic{CLASSES}", discovery_to_json(found, tests, tokens))
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(_wrapped(json.loads(path.read_text(encoding="utf-8")), wrap)), encoding="utf-8")
    return folder


def _wrapped(value: Any, wrap: Wrap) -> Any:
    """Every string but the keys that the files are known by, and the way that features were chosen."""
    if isinstance(value, dict):
        own = {"new_examples", "correlations"}
        return {
            key: {wrap(name): _wrapped(one, wrap) for name, one in inner.items()}
            if key in own
            else inner
            if key == "selection"
            else _wrapped(inner, wrap)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_wrapped(one, wrap) for one in value]
    return wrap(value) if isinstance(value, str) else value
