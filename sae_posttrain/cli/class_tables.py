"""The tables that `discover class` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.class_results import ClassTest
    from ..discovery.or_rule import OrRule


def print_rule(rule: OrRule, tests: Sequence[ClassTest]) -> None:
    """Print the features of one class, how they were chosen, and the results of each test."""
    chosen = rule.held_out[len(rule.features)]
    print(f"{rule.target}: F1 {chosen.f1:.3f} ({chosen.low:.3f} to {chosen.high:.3f}) on {chosen.total} held-out texts")
    print("  layer  feature  contrast")
    for one in rule.features:
        print(f"  {one.layer:5}  {one.feature:7}  {one.contrast:8.3f}")
    layers = ", ".join(f"{layer}: {value:.3f}" for layer, value in sorted(rule.top_contrast.items()))
    sizes = ", ".join(f"{size}: {one.f1:.3f}" for size, one in rule.held_out.items())
    print(f"  largest contrast by layer: {layers}\n  held-out F1 by number of features: {sizes}")
    for test in tests:
        print(f"  test {test.name}" + " " * 26 + "F1                  precision  recall  balanced accuracy  layers")
        for name, result in test.detections.items():
            where = " ".join(map(str, test.layers[name]))
            interval = f"{result.f1:.3f} ({result.low:.3f} to {result.high:.3f})"
            print(
                f"    {name:<26} {interval:>24}  {result.precision:9.3f}  {result.recall:6.3f}  "
                f"{result.balanced_accuracy:17.3f}  {where}"
            )
        for point in test.curve:
            spread = f"{min(point.f1):.3f} to {max(point.f1):.3f}"
            print(f"    found with {point.examples:6} texts: F1 {point.mean:.3f} ({spread} over {len(point.f1)} parts)")
    print()
