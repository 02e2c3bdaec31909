"""An automatic weight: as large as a budget of cross-entropy allows.

Let A(w) be the auxiliary loss of the model that minimises `cross-entropy + w · auxiliary`. The minimum of this sum has
the derivative A(w) with respect to w, so the increase of the cross-entropy at weight w is

    cost(w) = ∫₀ʷ A(v) dv − w · A(w).

A run knows two points of A: A₀, which is measured in its first steps while the weight is 0, and the current A. One
hyperbola A₀ / (1 + v / h) passes through both, and its integral has a closed form. So nothing else has to be measured:
neither a second backward pass nor a run without the penalty is needed. The weight rises while the estimated cost is
below the budget, and falls while it is above.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

AUTO: Literal["auto"] = "auto"
Weight = float | Literal["auto"]
"""The values that a user may set as the weight of a term."""
LOSS_BUDGET = 0.01
"""Default of the loss budget: the largest increase of the cross-entropy by all `auto` terms, as a share of it."""

MEASURED, FEWEST, MOST = 0.05, 3, 50
"""The number of first steps that measure A₀: as a share of the run, and its minimum and maximum."""
RISE = 0.5
"""The share of the run in which the weight can change at most by a factor of 100."""
FASTEST = math.log(2)
"""The largest change of the logarithm of the weight in one step. It limits the change in very short runs."""
MEMORY = 0.9
"""Decay of the running means of both losses, per optimizer step."""
IDLE = 0.01
"""If the auxiliary loss is below this share of A₀, little of it is left, and the weight does not rise further."""
NOW, AT_START = 5.0, 20.0
"""The largest weighted term, in units of the budget: at the current auxiliary loss, and at A₀. These bounds keep the
term from dominating the loss if the auxiliary loss rises again."""


def parse_weight(name: str, setting: Any) -> Weight:
    """Parse a weight from a command line or a YAML file.

    Args:
        name: name of the setting, for the message.
        setting: a number, a number as text, or `auto`.

    Raises:
        ValueError: neither a number nor `auto`.
    """
    if setting == AUTO:
        return AUTO
    try:
        if isinstance(setting, bool):  # YAML's true must not become a weight of 1
            raise TypeError
        return float(setting)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={setting!r}: expected a number of at least 0, or auto.") from None


@dataclass(frozen=True)
class AutoWeight:
    """The weight of one auxiliary term, and the state from which its next value is computed.

    Args:
        budget: largest increase of the cross-entropy that the term may cause, as a share of it. 0.01 is 1%.
        num_steps: number of optimizer steps of the whole run.
        weight: weight for the next step; 0 while A₀ is measured.
        start: A₀, the mean unweighted auxiliary loss of the first steps.
        auxiliary: running mean of the unweighted auxiliary loss.
        loss: running mean of the trainer's own loss.
        seen: number of optimizer steps measured so far.

    Example:
        >>> state = AutoWeight(budget=0.01, num_steps=60)
        >>> for _ in range(3):
        ...     state = state.after(loss=3.5, auxiliary=0.2)
        >>> round(state.weight, 4)
        0.175
    """

    budget: float
    num_steps: int
    weight: float = 0.0
    start: float = 0.0
    auxiliary: float = 0.0
    loss: float = 0.0
    seen: int = 0

    @property
    def measured(self) -> int:
        """The number of first steps that are trained with weight 0 to measure A₀."""
        return min(MOST, max(FEWEST, math.ceil(MEASURED * self.num_steps)))

    @property
    def cost(self) -> float:
        """The estimated current cost of the term, as a share of the trainer's loss."""
        return self.weight * _given_up(self.start, self.auxiliary) / self.loss if self.loss > 0 else 0.0

    def after(self, loss: float, auxiliary: float) -> AutoWeight:
        """The state after an optimizer step.

        Args:
            loss: the trainer's own loss of the whole step, without the auxiliary terms.
            auxiliary: the unweighted auxiliary loss of the whole step.
        """
        if not (math.isfinite(loss) and math.isfinite(auxiliary)):
            return self  # a step with a loss that is not finite must not change the weight
        seen = self.seen + 1
        if seen <= self.measured or self.start <= 0:
            # Steps without a penalised token do not show A₀, so measuring continues until a step has one.
            kept = (seen - 1) / seen
            mean = kept * self.auxiliary + (1 - kept) * auxiliary
            now = replace(self, auxiliary=mean, loss=kept * self.loss + (1 - kept) * loss, seen=seen)
            if seen < self.measured or mean <= 0:
                return now
            return replace(now, start=mean, weight=self.budget * now.loss / mean)
        now = replace(
            self,
            auxiliary=MEMORY * self.auxiliary + (1 - MEMORY) * auxiliary,
            loss=MEMORY * self.loss + (1 - MEMORY) * loss,
            seen=seen,
        )
        most = 1.0 if now.auxiliary > IDLE * self.start else 0.0
        spare = max(-1.0, min(most, 1 - now.cost / self.budget))
        rate = min(FASTEST, math.log(100) / (RISE * self.num_steps))
        allowance = self.budget * now.loss
        ceiling = allowance * min(NOW / now.auxiliary if now.auxiliary > 0 else math.inf, AT_START / self.start)
        return replace(now, weight=min(ceiling, self.weight * math.exp(rate * spare)))

    def state(self) -> dict[str, Any]:
        """The numbers to save in a checkpoint."""
        return asdict(self)


def _given_up(start: float, now: float) -> float:
    """The cost per unit of weight, if the auxiliary loss fell from `start` to `now` along a hyperbola."""
    if not 0 < now < start:
        return 0.0
    fell = start / now
    return start * math.log(fell) / (fell - 1) - now
