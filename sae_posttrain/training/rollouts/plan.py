"""Which rows of a generation batch are steered. Every process computes the same plan without communicating."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .settings import SteeringSettings


@dataclass(frozen=True)
class RolloutPlan:
    """The steered rows of one generation batch.

    Args:
        everywhere: for each row of the global batch (all processes, in order), whether it is steered.
        process: index of this process.
        size: number of rows on each process.
    """

    everywhere: tuple[bool, ...]
    process: int
    size: int

    @property
    def here(self) -> tuple[bool, ...]:
        """For each row of this process, whether it is steered."""
        return self._of(self.process)

    def rows(self, *, as_many_everywhere: bool = False) -> list[int]:
        """The steered rows of this process.

        Args:
            as_many_everywhere: whether the list is padded with row 0, so that it has the same length on every process.
                Processes that share a sharded model must run the same number of forwards.
        """
        rows = [row for row, steered in enumerate(self.here) if steered]
        if as_many_everywhere:
            most = max(sum(self._of(process)) for process in range(len(self.everywhere) // self.size))
            rows += [0] * (most - len(rows))
        return rows

    def rows_of_engine(self, processes: int) -> tuple[bool, ...]:
        """For each row of the processes that share an engine, whether it is steered.

        Args:
            processes: how many processes share it, such as vLLM's tensor parallel ranks.
        """
        first = self.process // processes * processes
        return tuple(steered for process in range(first, first + processes) for steered in self._of(process))

    def __bool__(self) -> bool:
        return any(self.everywhere)

    def _of(self, process: int) -> tuple[bool, ...]:
        return self.everywhere[process * self.size : (process + 1) * self.size]


def steered_rows(rows: int, group: int, per_group: int, probability: float = 1.0, seed: str = "") -> tuple[bool, ...]:
    """For each row of the global batch, whether it is steered: the first `per_group` rows of each chosen group.

    Args:
        rows: number of rows of the global batch, in which the rows of a group are contiguous.
        group: rows in a group.
        per_group: steered rows in a chosen group.
        probability: share of the groups that are chosen. The choice depends only on `seed` and the group's index, and
            uses no random generator that training uses.
        seed: any text, such as the run's seed and the step.
    """
    chosen = [random.Random(f"{seed} {number}").random() < probability for number in range(-(-rows // group))]
    return tuple(row % group < per_group and chosen[row // group] for row in range(rows))


def plan_for(trainer: Any, settings: SteeringSettings, size: int) -> RolloutPlan:
    """The plan of a trainer's next generation batch of `size` rows on each process. Evaluation is never steered."""
    step = trainer.state.global_step
    steers = trainer.model.training and step >= settings.steer_after_step
    everywhere = steered_rows(
        size * trainer.accelerator.num_processes,
        trainer.num_generations,
        settings.steered_per_group if steers else 0,
        settings.steer_probability,
        seed=f"{trainer.args.seed} {step} {trainer._step}",
    )
    return RolloutPlan(everywhere, trainer.accelerator.process_index, size)
