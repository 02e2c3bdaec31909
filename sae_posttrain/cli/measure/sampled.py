"""Sample the responses that are measured: kept as they come, shared by processes, and reported on when stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ...metrics.thinking import opens_thinking
from ...texts import Row
from ..engines import Opened, kept_responses, opened_engine, steered_by
from .responses import sampled_at, sampling_of

if TYPE_CHECKING:
    from ...sampling import KeptResponses, Response, SampledRun, SamplingSettings


@dataclass
class Sampled:
    """The rows of the sampled responses, and how the sampling ended.

    Args:
        rows: one for each response.
        main: whether this process reports; others of a distributed run do not.
        interrupted: whether the user stopped it, so that responses are missing.
        kept: the file of kept responses, if there is one.
        failures: how many responses could not be sampled.
    """

    rows: list[Row]
    main: bool = True
    interrupted: bool = False
    kept: KeptResponses | None = None
    failures: int = 0

    def written(self) -> None:
        """The output is complete: the kept responses are needed only to try failed ones again."""
        if self.kept is not None and not self.failures:
            self.kept.remove()


def sample(rows: Sequence[Row], args: argparse.Namespace) -> Sampled:
    """A row for each response to the prompts in `rows`."""
    from ...sampling import sample_run

    settings = sampling_of(args)
    prompts = [row["prompt"] for row in rows]
    with opened_engine(args) as opened:
        engine, sampled = opened.engine, Sampled([], opened.process == 0)
        turns = _turns(settings, engine.gives_ids)
        identity = {**engine.identity(), **steered_by(args)}
        asked = [asdict(turn[-1]) for turn in turns]
        own = {"samples": args.samples, "process": opened.process}
        with kept_responses(args.output, identity, prompts, asked, **own) as sampled.kept:
            for number, turn in enumerate(turns):
                run = sample_run(
                    engine,
                    prompts,
                    turn[-1],
                    samples=args.samples,
                    kept=sampled.kept,
                    number=number,
                    progress=sampled.main,
                    processes=opened.processes,
                )
                sampled.rows += _rows(rows, run, turn, args, opened)
                sampled.failures += len(run.failures)
                if sampled.main:
                    tell_failures(run, prompts)
                if run.interrupted:
                    sampled.interrupted = True
                    break
        _tell_interrupt(sampled, len(prompts) * sum(1 if one.greedy else args.samples for one in settings))
    return sampled


def _turns(settings: Sequence[SamplingSettings], gives_ids: bool) -> list[list[SamplingSettings]]:
    """Settings that are sampled together: what differs in length alone is sampled once, to the largest, and cut."""
    if not gives_ids:
        return [[one] for one in settings]
    return [list(group) for _, group in groupby(settings, key=lambda one: (one.temperature, one.top_p))]


def _rows(
    rows: Sequence[Row],
    run: SampledRun,
    turn: Sequence[SamplingSettings],
    args: argparse.Namespace,
    opened: Opened,
) -> Iterator[Row]:
    thinks = opened.chat and opens_thinking(opened.tokenizer, args.thinking_tags[0], args.chat_template_args)
    more: Row = {"thinking_opened": True} if thinks else {}
    pairs = [(row, one) for row, found in zip(rows, run.in_order(), strict=True) for one in found]
    for settings in turn:
        setting = sampled_at(args, settings)
        for row, one in pairs:
            cut: Response = one if len(turn) == 1 else one.cut(settings.max_new_tokens, opened.tokenizer)
            yield {**row, **setting, **more, **cut.to_row()}


def tell_failures(run: SampledRun, prompts: Sequence[Any]) -> None:
    """Print how many responses could not be sampled, and why the first of them could not."""
    if run.failures:
        (prompt, number), error = min(run.failures.items())
        print(
            f"{len(run.failures)} responses could not be sampled and are left out. The first is response {number + 1} "
            f"to prompt {prompt + 1} of {len(prompts)}: {error} Run the same command again to try them again.",
            file=sys.stderr,
        )


def _tell_interrupt(sampled: Sampled, wanted: int) -> None:
    if not sampled.interrupted or not sampled.main:
        return
    if not sampled.rows:
        raise ValueError("Stopped before there was any response.")
    goes_on = (
        "The same command goes on with the others."
        if sampled.kept
        else "They are not kept: give --output next time, and the same command goes on where it was stopped."
    )
    print(f"Stopped: the report is on {len(sampled.rows)} of {wanted} responses. {goes_on}", file=sys.stderr)
