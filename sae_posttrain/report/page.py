"""The report page: all sections of the given runs, in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from .benchmarks import overlap_figures, redundancy_figures, selection_panels
from .calibrations import calibration_figures
from .cards import decks
from .charts import dash, short
from .classes import class_figures
from .coverage import coverage_figures
from .curves import training_curves
from .diagnoses import diagnosis_figures
from .diffs import diff_figures
from .examples import loops, switches
from .rates import PAIRS, comparisons
from .run import Run, read_runs
from .traces import trace_figures

# Section → its title and the command that creates its data. Both are shown if the data is missing.
_PARTS = {
    "rates": ("rates and examples of answers", "sae-posttrain measure"),
    "curves": ("curves during training", "sae-posttrain sft"),
    "decks": ("the features", "sae-posttrain discover"),
    "passages": ("the passages with the highest activations of each feature", "sae-posttrain inspect contexts"),
    "traces": ("the features around a switch", "sae-posttrain inspect switches"),
    "diagnoses": ("what is behind bad answers", "sae-posttrain diagnose"),
    "calibrations": ("the loop rate by alpha", "sae-posttrain calibrate"),
    "diffs": ("the features that changed", "sae-posttrain inspect diff"),
    "coverage": ("the coverage of wanted features", "sae-posttrain data coverage"),
}


def write_report(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Write one self-contained HTML report about one or several runs, and return its path.

    Args:
        runs: folders of runs, or single files. `read_runs` lists the files that are read.
        path: the .html file to write. Missing folders are created.

    Returns: the path of the report.

    Raises:
        FileNotFoundError: a run does not exist.
        ValueError: a run has no file for a report, or one of its files is damaged.
        ImportError: the library for charts is missing. The message names the extra to install.

    Example:
        >>> write_report(["runs/sft", "runs/sasft"], "report.html")

    Source: our own format.
    """
    path = Path(path)
    page = render(read_runs(runs))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Texts may contain lone surrogates, which cannot be encoded as UTF-8.
    path.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text. The output is deterministic."""
    compared = [run for run in runs if run.log or run.answers or run.results]
    colours = {run.name: number for number, run in enumerate(compared)}
    parts: dict[str, Any] = {
        "rates": comparisons(compared),
        "curves": training_curves(compared, colours),
        "decks": decks(runs),
        "traces": trace_figures(runs, colours),
        "calibrations": calibration_figures(runs),
        "diffs": diff_figures(runs),
        "coverage": coverage_figures(runs),
        "classes": class_figures(runs),
        "overlaps": overlap_figures(runs),
        "redundancies": redundancy_figures(runs),
        "selections": selection_panels(runs),
        "diagnoses": diagnosis_figures(runs),
    }
    parts["passages"] = any(card.passages for deck in parts["decks"] for card in deck.cards)
    results = _results(compared)
    examples = [(run.name, found) for run in compared if (found := [*switches(run), *loops(run)])]
    shown = {
        "rates": ("Failure rates", parts["rates"] or results),
        "examples": ("Examples", examples),
        "diagnosis": ("What is behind the fault", parts["diagnoses"]),
        "curves": ("During training", parts["curves"]),
        "traces": ("Around a switch", parts["traces"]),
        "features": ("Features", parts["decks"]),
        "diff": ("What changed inside", parts["diffs"]),
        "alpha": ("Steering strength", parts["calibrations"]),
        "coverage": ("Coverage of wanted features", parts["coverage"]),
        "classes": ("Classes of texts", parts["classes"]),
        "benchmarks": ("Benchmarks", parts["overlaps"] or parts["redundancies"] or parts["selections"]),
    }
    page = _environment().get_template("page.html")
    return page.render(
        **parts,
        heading=_listed([run.name for run in compared or runs]),
        sections=[(key, title) for key, (title, content) in shown.items() if content],
        runs=compared,
        colours=colours,
        results=results,
        examples=examples,
        missing=[what for part, what in _PARTS.items() if not parts[part]] if _of_a_model(runs, parts) else [],
        only_some=_only_some(compared),
        version=__version__,
    )


def _results(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Metric → run → value, for metrics that describe the model."""
    names = dict.fromkeys(name for run in runs for name in run.results)
    told = [name for name in names if not name.endswith(("_runtime", "_per_second", "_num_tokens"))]
    return {name: {run.name: run.results[name] for run in runs if name in run.results} for name in told}


def _only_some(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Part → the runs that lack it, if other runs have it."""
    parts = {"training curves": "log", "measured answers": "answers"}
    lacking = {name: [run.name for run in runs if not getattr(run, part)] for name, part in parts.items()}
    return {name: without for name, without in lacking.items() if 0 < len(without) < len(runs)}


def _of_a_model(runs: Sequence[Run], parts: Mapping[str, Any]) -> bool:
    """Whether anything on the page is about a trained model or its features, so that more could be said of it."""
    return bool(parts["decks"]) or any(run.log or run.answers or run.results or run.traces for run in runs)


def _listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sae_posttrain.report"),
        autoescape=True,  # always on, because all displayed texts are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "short": short, "chance": chance, "points": points}
    environment.globals |= {"dash": dash, "most": PAIRS}
    environment.globals["style"] = Markup(environment.get_template("style.css").render())
    return environment


def percent(share: float) -> str:
    """A share in percent, with as many digits as are meaningful."""
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}" if share >= 0.1 else f"{share:.2%}"


def chance(p_value: float) -> str:
    """A p-value with two significant digits. Below 0.001 only the bound is shown."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * difference:+.2f} points".replace("-", "−")
