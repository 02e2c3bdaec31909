"""The selected features of one layer."""

# D model width, F features of the layer

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .checks import BY_GROUP, OPTIONAL, TENSORS


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The selected features of one layer.

    Args:
        layer: 0-based decoder block whose output residual is read.
        ids: `F` indices into the SAE's dictionary.
        targets: for each feature, the language or concept it stands for, or `repetition`.
        encoder: `(F, D)` float32 encoder rows. The SAE's normalisation is folded in, so that the pre-activation of a
            residual h is `h @ encoder.T + bias`.
        bias: `(F,)` encoder biases, folded in the same way.
        direction: `(F, D)` decoder directions.
        score: `(F,)` scores that the features were ranked by.
        typical: `(F,)` typical strength: mean activation where the feature fires on its target; always positive.
        baselines: language or label → `(F,)` mean pre-activation on the base model, often negative. Empty for
            repetition.
        activations: language, or kind of text such as `last period` → `(F,)` mean activation.
        threshold: `(F,)` pre-activation above which a feature is said to fire, so that the SAE is not needed to tell.
            None if it was not measured, as in files written before it existed.
        disagreement: `(F,)` how often threshold and SAE disagree: the tokens on which just one of the two says that the
            feature fires, as a share of those on which at least one does. Measured on other tokens than the threshold
            was chosen on. 1 where the feature did not fire on any of them.
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
    threshold: Tensor | None = None
    disagreement: Tensor | None = None

    def pre_activations(self, residual: Tensor) -> Tensor:
        """The pre-activations `(..., F)` of a residual `(..., D)`, in float32 on its device."""
        encoder_FD, bias_F = self.encoder.to(residual.device), self.bias.to(residual.device)
        return residual.float() @ encoder_FD.T + bias_F

    def fires(self, residual: Tensor) -> Tensor:
        """Which features fire on a residual `(..., D)`: `(..., F)`, told by their thresholds and without the SAE.

        Raises:
            ValueError: the thresholds were not measured.
        """
        if self.threshold is None:
            raise ValueError(
                f"The features of layer {self.layer} have no thresholds, so that only the SAE can tell whether they "
                "fire. Discover them again with this version."
            )
        return self.pre_activations(residual) > self.threshold.to(residual.device)

    def told(self, row: int) -> tuple[str, str]:
        """A feature's threshold and disagreement for a table; empty where they were not measured."""
        if self.threshold is None or self.disagreement is None:
            return "", ""
        return f"{self.threshold[row]:.3f}", f"{self.disagreement[row]:.1%}"

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
        present = [name for name in OPTIONAL if getattr(self, name) is not None]
        picked: dict[str, Any] = {name: getattr(self, name)[list(rows)] for name in (*TENSORS, *present)}
        for name in BY_GROUP:
            picked[name] = {group: values[list(rows)] for group, values in getattr(self, name).items()}
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            targets=tuple(self.targets[row] for row in rows),
            **picked,
        )
