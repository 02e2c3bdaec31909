"""The docs say what the code says: settings, links, and an index that names every page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "recipes/*/*.md", "benchmarks/**/*.md") for path in ROOT.glob(pattern)
)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}; {linked.name} has no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} == set(re.findall(r"\]\((\w+\.md)\)", index))


def test_settings_tables_are_those_of_the_dataclasses() -> None:
    settings = load_script(DOCS / "settings.py", "settings_tables")
    for page in settings.TABLES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert settings.rewritten(page, text) == text, f"{page} is out of date: run python docs/settings.py"


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    """Each quoted part of a message stands in the source, in one piece of text."""
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(quoted) > 50
    said = "\n".join(message for path in (ROOT / "sae_posttrain").rglob("*.py") for message in messages(path))
    assert [quote for quote in quoted if quote not in said] == []


def messages(path: Path) -> list[str]:
    """The messages of the errors that a module raises, with {} for what is filled in."""
    raised = [node.exc for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
    calls = [exc for exc in raised if isinstance(exc, ast.Call) and exc.args]
    return ["".join(_text(part) for part in _parts(call.args[0])) for call in calls]


def _parts(message: ast.expr) -> list[ast.expr]:
    return message.values if isinstance(message, ast.JoinedStr) else [message]


def _text(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}"
