"""Reports on expected switch rates: the mean probability that an answer leaves its language's script."""

# A answers, C clusters, M means

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..languages import get_language

RESAMPLES = 2_000
MAX_CELLS = 1 << 22  # number of resampled counts in memory at once: 32 MiB
ANY, BEGUN = "any", "any, only begun"
SHOWN = 5  # number of scripts that a table shows for each language


@dataclass(frozen=True)
class ExpectedSwitch:
    """The probability that one answer leaves its language's script.

    Args:
        language: code of the answer's language.
        cluster: the prompt, or another value that dependent answers share.
        any: probability of switching into any unexpected script.
        into: probability of switching into each script; 0 for scripts that are not in the mapping. The sum may exceed
            `any`, because one answer can switch into several scripts.
        begun: the part of `any` that is on tokens that contain only the first bytes of a letter. The letter may never
            be completed.
    """

    language: str
    cluster: Hashable
    any: float
    into: Mapping[str, float]
    begun: float = 0.0


@dataclass(frozen=True)
class Mean:
    """The mean probability over `total` answers, with a bootstrap interval over prompts."""

    rate: float
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class ExpectedSwitchReport:
    """Mean probability of a switch: over all answers, by their language, and by the script that they switch into.

    Pairs are (language, script). The language "all" stands for all languages together.
    """

    overall: Mean
    languages: Mapping[str, Mean]
    pairs: Mapping[tuple[str, str], Mean]
    begun: Mean
    skipped: int  # number of answers left out because their own language is written in every target script
    confidence: float
    answers: tuple[ExpectedSwitch, ...] = field(repr=False)

    @property
    def rate(self) -> float:
        return self.overall.rate

    def rows(self) -> list[dict[str, Any]]:
        """A row for each mean: all, each language, each pair, largest first; for tables and .csv."""
        found = [("all", ANY, self.overall), ("all", BEGUN, self.begun)]
        found += [(code, ANY, mean) for code, mean in self.languages.items()]
        found += [(code, script, mean) for (code, script), mean in self.pairs.items()]
        return [{"language": code, "into": into, **asdict(mean)} for code, into, mean in found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "overall": asdict(self.overall),
            "begun": asdict(self.begun),
            "languages": {code: asdict(mean) for code, mean in self.languages.items()},
            "pairs": [{"language": code, "script": script, **asdict(m)} for (code, script), m in self.pairs.items()],
            "skipped": self.skipped,
            "confidence": self.confidence,
        }

    def table(self) -> str:
        """One line per mean, in percent. For each language, the scripts with the highest probability are shown."""
        shown: dict[str, int] = {}
        hidden = 0
        lines = [f"language  {'into':<15}     total  expected %   {self.confidence:.0%} interval"]
        for row in self.rows():
            if row["into"] not in (ANY, BEGUN):
                place = shown[row["language"]] = shown.get(row["language"], 0) + 1
                if place > SHOWN or row["rate"] == 0:
                    hidden += row["rate"] > 0
                    continue
            lines.append(
                f"{row['language']:<9} {row['into']:<15} {row['total']:>9} {100 * row['rate']:>11.4f}   "
                f"{100 * row['low']:.4f} to {100 * row['high']:.4f}"
            )
        if hidden:
            lines.append(f"{hidden} rows for rarer scripts are not shown; --json and --csv have them.")
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: their own language is written in the target script.")
        return "\n".join(lines)


def expected_switch_report(
    answers: Sequence[ExpectedSwitch],
    *,
    skipped: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ExpectedSwitchReport:
    """Compute means over answers, with bootstrap intervals that draw whole clusters.

    Args:
        answers: results of `switch_probabilities`, or the same read from a file.
        skipped: number of answers that were already left out.
        confidence: confidence level of the intervals.
        resamples: number of bootstrap draws.
        seed: random seed of the draws.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("There are no answers to report on: every language given is itself written in the targets.")
    scripts = sorted({script for answer in answers for script in answer.into})
    codes = sorted({answer.language for answer in answers})
    names = [("all", ANY), ("all", BEGUN), *((code, ANY) for code in codes)]
    names += [("all", script) for script in scripts] if len(codes) > 1 else []
    names += [(code, script) for code in codes for script in scripts]
    sums_CM, sizes_CM = by_cluster(answers, names, cluster_order(answers))
    means = _means(sums_CM, sizes_CM, confidence, resamples, seed)
    found = {name: mean for name, mean in zip(names, means, strict=True) if mean is not None}
    pairs = {name: mean for name, mean in found.items() if name[1] in scripts}
    by_size = sorted(pairs, key=lambda name: (name[0] != "all", name[0], -pairs[name].rate))
    return ExpectedSwitchReport(
        overall=found["all", ANY],
        begun=found["all", BEGUN],
        languages={code: found[code, ANY] for code in codes},
        pairs={name: pairs[name] for name in by_size},
        skipped=skipped,
        confidence=confidence,
        answers=tuple(answers),
    )


def cluster_order(answers: Sequence[ExpectedSwitch]) -> dict[Hashable, int]:
    """The index of each cluster, in order of first occurrence."""
    return {cluster: place for place, cluster in enumerate(dict.fromkeys(answer.cluster for answer in answers))}


def by_cluster(
    answers: Sequence[ExpectedSwitch], names: Sequence[tuple[str, str]], order: Mapping[Hashable, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of probabilities and numbers of answers `(C, M)` of each cluster, for each (language, into)."""
    place_of: dict[str, list[tuple[int, str]]] = {}
    for place, (code, into) in enumerate(names):
        place_of.setdefault(code, []).append((place, into))
    sums_CM, sizes_CM = np.zeros((2, len(order), len(names)))
    for answer in answers:
        row, own = order[answer.cluster], get_language(answer.language).scripts
        for place, into in [*place_of.get("all", ()), *place_of.get(answer.language, ())]:
            if into in own:  # the answer's own script is not a switch
                continue
            sums_CM[row, place] += (
                answer.any if into == ANY else answer.begun if into == BEGUN else answer.into.get(into, 0)
            )
            sizes_CM[row, place] += 1
    return sums_CM, sizes_CM


def _means(
    sums_CM: np.ndarray, sizes_CM: np.ndarray, confidence: float, resamples: int, seed: int
) -> list[Mean | None]:
    """The mean and interval of each column; None for a column without answers."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    drawn_R2M = resampled(np.stack([sums_CM, sizes_CM]), resamples, np.random.default_rng(seed))
    tail, found = (1 - confidence) / 2, list[Mean | None]()
    for place in range(sums_CM.shape[1]):
        total = int(sizes_CM[:, place].sum())
        if not total:
            found.append(None)
            continue
        drawn_R2 = drawn_R2M[drawn_R2M[:, 1, place] > 0, :, place]
        low, high = np.quantile(drawn_R2[:, 0] / drawn_R2[:, 1], [tail, 1 - tail])
        if np.count_nonzero(sizes_CM[:, place]) == 1:  # a single prompt allows no conclusion about others
            low, high = 0.0, 1.0
        found.append(Mean(float(sums_CM[:, place].sum() / total), total, float(low), float(high)))
    return found


def resampled(values_XCM: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """`(R, X, M)` sums over clusters drawn with replacement. All columns use the same draws."""
    clusters = values_XCM.shape[1]
    chunk = max(1, MAX_CELLS // clusters)
    found = []
    for start in range(0, resamples, chunk):
        drawn_RC = rng.multinomial(
            clusters, np.full(clusters, 1 / clusters), size=min(chunk, resamples - start)
        ).astype(float)
        found.append(np.einsum("rc,xcm->rxm", drawn_RC, values_XCM, optimize=True))
    return np.concatenate(found)
