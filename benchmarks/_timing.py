"""Times that can be compared: the ways take turns in one process, and each round's ratios are of that round alone."""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

Way = Callable[[], object]
MEGABYTE = 1e6


@dataclass(frozen=True)
class Timing:
    """What one way of doing something takes. Seconds, and megabytes; ratios to `base` in the same round.

    peak_memory: above what was there before, where the device counts it.
    per_second: how much of `unit` is done in a second, at the median.
    """

    name: str
    variant: str
    size: str
    dtype: str
    device: str
    p20: float
    p50: float
    p80: float
    ratio_p20: float
    ratio_p50: float
    ratio_p80: float
    base: str
    peak_memory: float | None = None
    per_second: float | None = None
    unit: str = ""


def interleaved(
    name: str,
    ways: Mapping[str, Way],
    *,
    rounds: int,
    size: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    memory: bool = False,
    work: tuple[float, str] | None = None,
) -> list[Timing]:
    """Time each way once in a round, in another order each round; the first is what the others are compared with.

    Every way runs once before that, for its memory or just to warm up. Says on stderr how far it is.

    Args:
        work: what each way does, such as `(256, "tokens")`.
    """
    base = next(iter(ways))
    peaks: dict[str, float | None] = {}
    for variant, way in ways.items():
        peaks[variant] = peak_memory(way, device) if memory else None
        if not memory:
            way()
    times: list[dict[str, float]] = []
    for number in range(rounds):
        order = random.sample(list(ways), len(ways))
        times.append({variant: seconds(ways[variant], device) for variant in order})
        progress(f"{name} {size}".strip(), number + 1, rounds)
    amount, unit = work or (None, "")
    timings = []
    for variant in ways:
        low, middle, high = spread([one[variant] for one in times])
        timings.append(
            Timing(
                *(name, variant, size, dtype, device, low, middle, high),
                *spread([one[variant] / one[base] for one in times]),
                base=base,
                peak_memory=peaks[variant],
                per_second=amount and digits(amount / middle, 3),
                unit=unit,
            )
        )
    return timings


def growing(
    name: str, variant: str, ways: Mapping[str, tuple[Way, float]], *, unit: str, **options: Any
) -> list[Timing]:
    """One way over sizes: size → the way, and how much of `unit` it does. Ratios are to the first size."""
    found = interleaved(name, {size: way for size, (way, _) in ways.items()}, **options)
    return [
        replace(one, size=size, variant=variant, per_second=digits(amount / one.p50, 3), unit=unit)
        for one, (size, (_, amount)) in zip(found, ways.items(), strict=True)
    ]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile, to five digits."""
    fifths = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else [values[0]] * 4
    low, middle, high = (digits(value, 5) for value in (fifths[0], statistics.median(values), fifths[3]))
    return low, middle, high


def digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def seconds(way: Way, device: str = "cpu") -> float:
    """On a CPU the processor's time, of processes started too: on one thread, what it takes if nothing else runs."""
    if device == "cpu":
        started = processor_seconds()
        way()
        return processor_seconds() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def processor_seconds() -> float:
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory(way: Way, device: str) -> float:
    """Megabytes in tensors at the most, above what there is before."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / MEGABYTE, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        way()
    held = most = 0
    for event in sorted(_allocations(profile), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return round(most / MEGABYTE, 2)


def _allocations(profile: Any) -> list[Any]:
    """Tensors' coming and going: when, and how many bytes."""
    return [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]


def progress(what: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{what}: {done}/{total}", end=end, file=sys.stderr, flush=True)


def table(timings: Sequence[Timing]) -> str:
    """For a terminal."""
    header = ["variant", "size", "median s", "per second", "ratio p20", "p50", "p80", "MB"]
    rows = [header]
    for one in timings:
        ratios = [f"{value:.3f}" for value in (one.ratio_p20, one.ratio_p50, one.ratio_p80)]
        rows.append(
            [
                one.variant,
                one.size,
                f"{one.p50:.4g}",
                "" if one.per_second is None else f"{one.per_second:g} {one.unit}",
                *ratios,
                "" if one.peak_memory is None else f"{one.peak_memory:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
