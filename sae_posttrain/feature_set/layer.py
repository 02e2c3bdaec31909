"""The selected features of one layer."""

# D model width, F features of the layer

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .checks import BY_GROUP, TENSORS


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The selected features of one layer.

    Args:
        layer: 0-based decoder block whose output residual is read.
        ids: `F` indices into the SAE's dictionary.
        targets: for each feature, the language it stands for, or `repetition`.
        encoder: `(F, D)` float32 encoder rows. The SAE's normalisation is folded in, so that the pre-activation of a
            residual h is `h @ encoder.T + bias`.
        bias: `(F,)` encoder biases, folded in the same way.
        direction: `(F, D)` decoder directions.
        score: `(F,)` scores that the features were ranked by.
        typical: `(F,)` typical strength: mean activation where the feature fires on its target; always positive.
        baselines: language → `(F,)` mean pre-activation on the base model, often negative. Empty for repetition.
        activations: language, or kind of text such as `last period` → `(F,)` mean activation.
    """

    layer: int
    ids: tuple[int, ...]
    targets: tuple[str, ...]
    encoder: Tensor
    bias: Tensor
    direction: Tensor
    score: Tensor
    typical: Tensor
    baselines: Mapping[str, Tensor]
    activations: Mapping[str, Tensor]

    def select(self, targets: Iterable[str]) -> LayerFeatures:
        """Only the features that stand for these targets."""
        wanted = set(targets)
        return self.take([row for row, target in enumerate(self.targets) if target in wanted])

    def first(self, top: int | None) -> LayerFeatures:
        """The first `top` features of each target, which discovery ranked highest; None keeps all."""
        seen: dict[str, int] = {}
        rows = []
        for row, target in enumerate(self.targets):
            seen[target] = seen.get(target, 0) + 1
            if top is None or seen[target] <= top:
                rows.append(row)
        return self.take(rows)

    def take(self, rows: Sequence[int]) -> LayerFeatures:
        """Only the features in these rows."""
        picked: dict[str, Any] = {name: getattr(self, name)[list(rows)] for name in TENSORS}
        for name in BY_GROUP:
            picked[name] = {group: values[list(rows)] for group, values in getattr(self, name).items()}
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            targets=tuple(self.targets[row] for row in rows),
            **picked,
        )
