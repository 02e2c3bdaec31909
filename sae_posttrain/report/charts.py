"""Draw charts as inline SVG with Matplotlib. The page's style sheet sets their colours; there is no script."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

COLOURS = 6
LARGEST = 1e300
# Lines also differ in their dashes, for print and for people with colour blindness.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.6, 1.4)), (0, (7, 1.6, 1.6, 1.6)), (0, (3, 3)), (0, (9, 2)))
_SIZE = (360, 216)
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Matplotlib draws with these placeholder colours, which are then replaced by the page's CSS variables.
_THEME = {f"#fe010{n}": f"var(--run-{n})" for n in range(COLOURS)} | {
    "#fe0201": "var(--ink)",
    "#fe0202": "var(--muted)",
    "#fe0203": "var(--line)",
}
_INK, _MUTED, _LINE = list(_THEME)[COLOURS:]


@dataclass(frozen=True)
class Line:
    """One line of a chart. `low` and `high` are the bounds of a band around it. A value of None leaves a gap.

    Args:
        colour: index of the page's colour and dashes.
        level: y value of a thin horizontal line with the same colour.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    level: float | None = None


@dataclass(frozen=True)
class Mark:
    """A dotted line across the chart with a label: horizontal at `y`, or vertical at `x`."""

    text: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Panel:
    """A chart with its title and description."""

    title: str
    says: str
    chart: Markup


def line_chart(
    lines: Sequence[Line],
    *,
    key: str,
    about: str,
    x_label: str = "",
    marks: Sequence[Mark] = (),
    ring: tuple[float, float] | None = None,
    percent: bool = False,
    dots: bool = False,
    powers: bool = False,
) -> Markup:
    """Draw a line chart as an SVG element.

    Args:
        key: name of the chart, unique on the page.
        about: description for screen readers. The first and last values of the lines are added to it.
        ring: a point to mark with a ring.
        percent: whether y is a share, shown in percent.
        dots: whether each point has a dot.
        powers: whether the x axis is in powers of two.
    """
    with _drawing() as figure:
        axes = figure.add_axes((0.135, 0.175, 0.835, 0.765))
        _dress(axes, x_label, percent, powers)
        for line in lines:
            _draw(axes, line, dots or sum(value is not None for value in line.y) < 2)
        for mark in marks:
            _mark(axes, mark)
        if ring is not None:
            axes.plot(*ring, "o", markersize=11, markerfacecolor="none", markeredgecolor=_INK, markeredgewidth=1.4)
        axes.margins(x=0.02, y=0.08)
        if percent:
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(written.getvalue(), key, f"{about} {_ends(lines, percent)}".strip())


@contextmanager
def _drawing() -> Iterator[Any]:
    """A figure with Matplotlib's default settings, which do not depend on the settings of the process."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The report's charts need Matplotlib: pip install 'sae-posttrain[report]'.") from error
    settings = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False, "font.size": 10.5}
    # The browser draws the text, so warnings about letters that Matplotlib's font lacks do not matter.
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context(settings):
        figure = Figure(figsize=(_SIZE[0] / 72, _SIZE[1] / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(figure)
        yield figure


def _dress(axes: Any, x_label: str, percent: bool, powers: bool) -> None:
    """Style the axes with few and faint lines, so that the data stand out."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.tick_params(colors=_MUTED, length=0, pad=5)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=_MUTED, labelpad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%" if percent else short(value)))
    if powers:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw(axes: Any, line: Line, dots: bool) -> None:
    colour, dash = list(_THEME)[line.colour % COLOURS], _dash(line.colour)
    y = [math.nan if value is None else value for value in line.y]
    if line.low is not None and line.high is not None:
        low, high = ([math.nan if value is None else value for value in side] for side in (line.low, line.high))
        axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(line.x, y, linestyle=dash, color=colour, linewidth=1.9, marker="o" if dots else None, markersize=3.6)
    if line.level is not None:
        axes.axhline(line.level, color=colour, linewidth=0.9, linestyle=dash, alpha=0.6)


def _mark(axes: Any, mark: Mark) -> None:
    look = {"color": _MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
    if mark.x is not None:
        axes.axvline(mark.x, **look)
        place = {"xy": (mark.x, 1), "xycoords": ("data", "axes fraction"), "xytext": (-4, -9), "ha": "right"}
    else:
        axes.axhline(mark.y, **look)
        place = {"xy": (0, mark.y), "xycoords": ("axes fraction", "data"), "xytext": (4, 4), "ha": "left"}
    axes.annotate(mark.text, textcoords="offset points", color=_MUTED, fontsize=9.5, **place)


def dash(colour: int) -> str:
    """The dashes of a run's lines, as an SVG attribute."""
    found = _dash(colour)
    return "" if found == "-" else ",".join(map(str, found[1]))


def _dash(colour: int) -> Any:
    """The dashes of a run. If there are more runs than colours, runs with the same colour have different dashes."""
    return _DASHES[(colour + colour // COLOURS) % len(_DASHES)]


def known(value: Any) -> float | None:
    """A number from a file; None if it is not a number, or too large for the range of an axis."""
    return None if value is None or not abs(float(value)) < LARGEST else float(value)


def short(value: float) -> str:
    """Format a number in a few characters."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}".replace("-", "−")
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def _ends(lines: Sequence[Line], percent: bool) -> str:
    say: Callable[[float], str] = (lambda value: f"{value:.2%}") if percent else short
    parts = []
    for line in lines:
        known = [value for value in line.y if value is not None and math.isfinite(value)]
        if known:
            parts.append(f"{line.name}: {say(known[0])} to {say(known[-1])}")
    return f"First to last: {'; '.join(parts)}." if parts else ""


def _inline(svg: str, key: str, about: str) -> Markup:
    """Adapt an SVG for the page: with the page's colours, without a fixed size or global styles, with unique ids."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        link = element.attrib.pop(f"{{{_LINK}}}href", None)
        if link is not None:
            element.set("href", f"#{key}-{link[1:]}")
        if "id" in element.attrib:
            element.set("id", f"{key}-" + element.attrib["id"])
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("#", f"#{key}-"))
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img"}
    title = ElementTree.Element("title")
    title.text = about
    root.insert(0, title)
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
    for drawn, themed in _THEME.items():
        text = text.replace(drawn, themed)
    return Markup(text)
