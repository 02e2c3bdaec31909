"""An automatic weight: as large as a budget of cross-entropy allows.

What does a penalty cost? Let A(w) be the auxiliary loss of the model that minimises `cross-entropy + w · auxiliary`.
The least value of that sum has the derivative A(w), so the cross-entropy given up for the weight w is

    cost(w) = ∫₀ʷ A(v) dv − w · A(w).

A run knows two points of A: A₀, measured in its first steps, while the weight is 0, and A now. One hyperbola
A₀ / (1 + v / h) goes through both, and its integral is known. So nothing else is measured: there is no second backward
pass, and no run without the penalty. The weight rises while the cost is below the budget, and falls while it is above.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

AUTO: Literal["auto"] = "auto"
Weight = float | Literal["auto"]
"""What a user may set a term's weight to."""
LOSS_BUDGET = 0.01
"""How much of the cross-entropy `auto` terms may cost together, where the user does not say."""

MEASURED, FEWEST, MOST = 0.05, 3, 50
"""The first steps measure A₀: this share of the run, at least so many and at most so many."""
RISE = 0.5
"""Share of the run in which the weight could change a hundredfold."""
FASTEST = math.log(2)
"""Most that the logarithm of the weight changes in one step, which matters in very short runs."""
MEMORY = 0.9
"""Decay of the running means of both losses, per optimizer step."""
IDLE = 0.01
"""A penalty below this share of A₀ has nothing left to give, and the weight rises no further for it."""
NOW, AT_START = 5.0, 20.0
"""The term weighs at most so many budgets now, and would at A₀: a penalty that returns must not take over the loss."""


def parse_weight(name: str, setting: Any) -> Weight:
    """A weight as a command line or a YAML file gives it.

    Args:
        name: the setting, for the message.
        setting: a number, the text of one, or `auto`.

    Raises:
        ValueError: neither a number nor `auto`.
    """
    if setting == AUTO:
        return AUTO
    try:
        if isinstance(setting, bool):  # YAML's true is no weight of 1
            raise TypeError
        return float(setting)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={setting!r}: expected a number of at least 0, or auto.") from None


@dataclass(frozen=True)
class AutoWeight:
    """The weight of one auxiliary term, and what its next value follows from.

    Args:
        budget: how much of the cross-entropy the term may cost, as a share of it: 0.01 is 1%.
        num_steps: optimizer steps of the whole run.
        weight: for the coming step; 0 while the first steps are measured.
        start: A₀, the mean unweighted auxiliary loss of the measured steps.
        auxiliary: running mean of the unweighted auxiliary loss.
        loss: running mean of the trainer's own loss.
        seen: optimizer steps measured so far.

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
        """How many of the run's first steps are trained with weight 0, to measure A₀."""
        return min(MOST, max(FEWEST, math.ceil(MEASURED * self.num_steps)))

    @property
    def cost(self) -> float:
        """What the term is estimated to cost now, as a share of the trainer's loss."""
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
            # Steps without a penalised token do not tell A₀; the measuring goes on until one has had some.
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
        """What a checkpoint keeps of it: numbers only."""
        return asdict(self)


def _given_up(start: float, now: float) -> float:
    """The cost of a unit of weight, where the auxiliary loss fell from `start` to `now` along a hyperbola."""
    if not 0 < now < start:
        return 0.0
    fell = start / now
    return start * math.log(fell) / (fell - 1) - now
