"""Write the settings tables of the docs anew from the dataclasses' help: `python docs/settings.py`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sae_posttrain.cli.grpo import RewardArguments
from sae_posttrain.training.rollouts import SteeredGRPOConfig
from sae_posttrain.training.rollouts.settings import SteeringSettings
from sae_posttrain.training.sasft.settings import SASFTSettings

DOCS = Path(__file__).parent
TABLES: dict[str, list[type[Any]]] = {
    "sasft.md": [SASFTSettings],
    "steered_rollouts.md": [SteeringSettings, SteeredGRPOConfig, RewardArguments],
}
"""Page → the dataclasses whose own fields it lists."""


def table(cls: type[Any]) -> str:
    """One row for each field that the class adds itself: name, default, help."""
    own = [one for one in fields(cls) if one.name in cls.__annotations__]
    kinds = get_type_hints(cls)
    rows = [f"| `{one.name}` | {_default(one, kinds[one.name])} | {one.metadata['help']} |" for one in own]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def rewritten(page: str, text: str) -> str:
    """The page with its tables written anew."""
    for cls in TABLES[page]:
        begin, end = f"<!-- settings {cls.__name__} -->\n", "<!-- end of settings -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{page} has no lines {begin.strip()} and {end} to write between.")
        text = f"{before}{begin}\n{table(cls)}\n{end}{after}"
    return text


def _default(one: Field[Any], kind: Any) -> str:
    value = one.default if one.default is not MISSING else one.default_factory()  # type: ignore[misc]
    if value is None or value == []:
        return "none"
    choices = [f"`{choice}`" for choice in get_args(kind)] if get_origin(kind) is Literal else []
    others = [choice for choice in choices if choice != f"`{value}`"]
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`" + (f"; or {', '.join(others)}" if others else "")


def main() -> None:
    for page in TABLES:
        path = DOCS / page
        path.write_text(rewritten(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
