"""How a rule of features does on labelled texts that it has not seen, beside its control and dense classifiers."""

# E examples

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..artefacts import CLASS_DISCOVERY
from ..discovery.classes import ClassDiscovery
from ..discovery.copies import warn_of_known
from ..discovery.firing import FiringSets, collect_firing
from ..discovery.or_rule import OrRule, RankedFeature, any_fires, random_features
from ..discovery.pooled import mean_residuals
from ..metrics.detection import Detection
from ..sae import SparseAutoencoder
from .classification import classify
from .learning_curve import CurvePoint, learning_curve
from .probes import choose_probe, dense_fits

RULE, RANDOM, ALWAYS = "OR-rule", "random features", "always yes"
TOKENS = 8  # shown of each feature
TOKEN_TEXTS = 300  # read to count tokens


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with the class of each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def of(self, target: str) -> np.ndarray:
        """`(E,)` whether each text is of the class."""
        return np.array([label == target for label in self.labels])


@dataclass(frozen=True)
class ClassTest:
    """Results on one set of labelled texts.

    Args:
        name: name of the set.
        target: the class.
        detections: way to detect → its result. `random features` is the control of the rule; `always yes` is what
            says yes to every text.
        layers: way to detect → the layers that it reads.
        curve: the rule by the number of labelled texts that it was found with.
    """

    name: str
    target: str
    detections: Mapping[str, Detection]
    layers: Mapping[str, tuple[int, ...]]
    curve: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        methods = [
            {"method": name, "layers": list(self.layers[name]), **detection.to_dict()}
            for name, detection in self.detections.items()
        ]
        return {"name": self.name, "methods": methods, "curve": [point.to_dict() for point in self.curve]}


def check_tests(tests: Mapping[str, LabelledTexts], targets: Sequence[str]) -> None:
    """Check, before anything is read, that each test can judge each class.

    Raises:
        ValueError: a test lacks the class, or has nothing else.
    """
    for name, test in tests.items():
        for target in targets:
            if len(set(test.of(target).tolist())) < 2:
                raise ValueError(f"The test {name} needs texts of {target} and others, by the same labels.")


def judge_rules(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    found: ClassDiscovery,
    texts: Sequence[str],
    tests: Mapping[str, LabelledTexts],
    *,
    dense: bool = True,
    curve: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> dict[str, list[ClassTest]]:
    """Judge the rule of each class on other texts, such as those of another language.

    Args:
        model, tokenizer: the model and its tokenizer.
        sae: a folder or hub id for `load_sae`, or the SAEs by layer.
        found: the result of `discover_class_features`.
        texts: the texts that it was found with, in its order.
        tests: name → labelled texts.
        dense: whether a difference of means and, if scikit-learn is installed, a logistic regression are fitted on
            mean residuals. This takes one more pass over all texts.
        curve: settings of `learning_curve`, such as `{"draws": 10}`. Default: no curve.
        cache: a folder for the firing sets of each test.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.

    Returns:
        Class → a result for each test.

    Raises:
        ValueError: a test lacks the class, or has nothing else.
    """
    reading: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "progress": progress}
    layers = list(found.firing)
    check_tests(tests, [rule.target for rule in found.rules])
    dense = dense and bool(tests)
    dense_own = mean_residuals(model, tokenizer, texts, layers=layers, **reading) if dense else {}
    own_E = {rule.target: np.array(found.labels) == rule.target for rule in found.rules}
    probes = {
        target: {way: choose_probe(fits, dense_own, of_class_E, found.held_out_E) for way, fits in dense_fits().items()}
        for target, of_class_E in (own_E if dense else {}).items()
    }
    results: dict[str, list[ClassTest]] = {rule.target: [] for rule in found.rules}
    known = set(texts)
    for name, test in tests.items():
        warn_of_known(name, test.texts, known)
        place = None if cache is None else Path(cache) / "tests" / name
        firing = collect_firing(model, tokenizer, sae, test.texts, layers=layers, at="any", cache=place, **reading)
        dense_test = mean_residuals(model, tokenizer, test.texts, layers=layers, **reading) if dense else {}
        for rule in found.rules:
            actual_E = test.of(rule.target)
            said, of_layers = _by_features(found, rule, firing)
            for way, probe in probes.get(rule.target, {}).items():
                said[way], of_layers[way] = probe.detects(dense_test), (probe.layer,)
            points = (
                learning_curve(found.firing, own_E[rule.target], firing, actual_E, **curve) if curve is not None else ()
            )
            detections = {way: Detection.of(fires_E, actual_E) for way, fires_E in said.items()}
            results[rule.target].append(ClassTest(name, rule.target, detections, of_layers, tuple(points)))
    return results


def _by_features(
    found: ClassDiscovery, rule: OrRule, firing: Mapping[int, FiringSets]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """What the rule, as many random features of the same layers, and "always yes" say."""
    layers = tuple(dict.fromkeys(one.layer for one in rule.features))
    drawn = [
        RankedFeature(layer, feature, 0.0)
        for layer in layers
        for feature in random_features(
            found.firing[layer], rule.features, sum(one.layer == layer for one in rule.features), seed=layer
        )
    ]
    fires_E = rule.detects(firing)
    said = {RULE: fires_E, RANDOM: any_fires(firing, drawn), ALWAYS: np.ones_like(fires_E)}
    return said, {RULE: layers, RANDOM: layers, ALWAYS: ()}


def token_counts_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    found: ClassDiscovery,
    texts: Sequence[str],
    **reading: int,
) -> dict[tuple[str, int, int], Counter[str]]:
    """(class, layer, feature) → the tokens at which it is most active, in held-out texts of the class."""
    counts: dict[tuple[str, int, int], Counter[str]] = {}
    for rule in found.rules:
        own = [
            text
            for text, label, held_out in zip(texts, found.labels, found.held_out_E, strict=True)
            if held_out and label == rule.target
        ]
        features = found.features.select([rule.target])
        for verdict in classify(model, tokenizer, features, own[:TOKEN_TEXTS], sae=sae, **reading):
            for one in verdict.evidence:
                counts.setdefault((one.target, one.layer, one.feature), Counter())[one.token.strip()] += 1
    return counts


def discovery_to_json(
    found: ClassDiscovery,
    tests: Mapping[str, Sequence[ClassTest]],
    tokens: Mapping[tuple[str, int, int], Counter[str]],
) -> dict[str, Any]:
    """Plain values for JSON, as the report reads them."""

    def feature(rule: OrRule, one: RankedFeature) -> dict[str, Any]:
        own_E = np.array(found.labels) == rule.target
        alone = Detection.of(any_fires(found.firing, [one])[found.held_out_E], own_E[found.held_out_E], resamples=1)
        common = tokens.get((rule.target, one.layer, one.feature), Counter()).most_common(TOKENS)
        return {
            **{"layer": one.layer, "feature": one.feature, "contrast": one.contrast},
            **{"precision": alone.precision, "recall": alone.recall, "tokens": [list(pair) for pair in common]},
        }

    return {
        CLASS_DISCOVERY: [
            {
                "target": rule.target,
                "texts": len(found.labels),
                "held_out_texts": int(found.held_out_E.sum()),
                "selection": found.features.provenance.selection,
                "features": [feature(rule, one) for one in rule.features],
                "top_contrast": [[layer, value] for layer, value in sorted(rule.top_contrast.items())],
                "held_out": [{"size": size, **one.to_dict()} for size, one in rule.held_out.items()],
                "tests": [test.to_dict() for test in tests.get(rule.target, [])],
            }
            for rule in found.rules
        ]
    }
