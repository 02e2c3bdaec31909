"""A progress bar over responses that advances with every token of a batch, and shows how fast they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..bars import progress_bar

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {unit} [{elapsed}<{remaining}]"  # tqdm puts a comma before {postfix}


class SamplingProgress:
    """Shows how many responses are done, how fast they and their tokens come, and the time left.

    Where responses come in batches, it also shows the token that the current batch has reached. It then assumes that a
    batch takes `max_new_tokens` steps; where its responses end earlier, it jumps at the batch's end. The time left is
    therefore an upper bound.

    Args:
        total: responses that will be sampled.
        max_new_tokens: the token limit of a response.
        title: shown before the bar.
        disable: whether nothing is shown.
        clock: seconds that have passed since any fixed time.

    Example:
        >>> with SamplingProgress(8, 100, disable=True) as progress:
        ...     progress.start_batch(4)
        ...     progress.step()
        ...     progress.shown
        0.04
    """

    def __init__(
        self,
        total: int,
        max_new_tokens: int,
        title: str = "responses",
        *,
        disable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.max_new_tokens, self.clock = total, max_new_tokens, clock
        self._done, self._tokens, self._batch, self._token = 0, 0, 0, 0
        self._began = clock()
        self._bar = progress_bar(total=total, desc=title, unit=self._state(), disable=disable, bar_format=_FORMAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish_batch()
        self._bar.close()

    @property
    def shown(self) -> float:
        """How many responses count as done; the current batch counts by the share of its tokens that are done."""
        return self._done + self._batch * min(1.0, self._token / self.max_new_tokens)

    def start_batch(self, responses: int) -> None:
        """Begin a batch, and count the responses of the batch before as done."""
        self.finish_batch()
        self._batch = responses
        self._show()

    def step(self) -> None:
        """Count one more token of every response in the batch."""
        self._token += 1
        self._show()

    def finish_batch(self) -> None:
        """Count the current batch's responses as done."""
        self.add(self._batch, self._batch * self._token)

    def add(self, responses: int, tokens: int) -> None:
        """Count responses as done, in place of the current batch if there is one.

        Args:
            responses: how many.
            tokens: how many they have together.
        """
        self._done, self._tokens, self._batch, self._token = self._done + responses, self._tokens + tokens, 0, 0
        self._show()

    def _state(self) -> str:
        token = f", token {self._token} of at most {self.max_new_tokens}" if self._batch else ""
        return f"{self._done} of {self.total} responses{token}{self._speed()}"

    def _speed(self) -> str:
        """Responses and tokens per second so far; tokens of a batch under way count for all of its responses."""
        seconds, tokens = self.clock() - self._began, self._tokens + self._batch * self._token
        if seconds < 1 or not tokens:
            return ""
        return f", {self.shown / seconds:.3g} responses/s, {tokens / seconds:,.0f} tokens/s"

    def _show(self) -> None:
        self._bar.unit = self._state()
        self._bar.update(self.shown - self._bar.n)
