"""The tables of the recipe on pretrained models: each number in README is a row of the CSV, with its commit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

HEADER = "recipe,model,arm,seed,metric,setting,value,low,high,n,commit\n"
CHANGE = "switching,m,sasft zh,0+1+2,change of leaving against sft,"


@pytest.fixture
def tables(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["tables"]


def test_the_tables_of_this_repository_are_those_of_the_results(tables: ModuleType) -> None:
    assert tables.main([]) == []  # else: python recipes/real_weights/tables.py --write


def test_a_table_shows_the_seeds_together_and_nothing_where_there_is_no_row(tables: ModuleType, tmp_path: Path) -> None:
    rows = CHANGE + '"into Hani, top_p 1",-0.354,-0.39,-0.31,75,abc\n' + "switching,m,sft,0,loss,all,3.5,,,9,abc\n"
    one_seed = rows.splitlines(keepends=True)[0].replace("0+1+2", "1").replace("-0.354", "-0.1")
    (tmp_path / "r.csv").write_text(HEADER + one_seed + rows, encoding="utf-8")
    change = {"title": "into zh", "metric": "change of leaving against sft", "setting": "into Hani, top_p 1"}
    loss = {"title": "loss", "metric": "loss", "setting": "all", "style": "number", "digits": 3}
    table = {
        "recipe": "switching",
        "arms": {"sft": "plain SFT", "sasft zh": "SASFT"},
        "columns": [{**change, "style": "change", "digits": 0}, loss],
    }
    assert tables.lines_of(table, tables.read_rows(tmp_path / "r.csv")) == [
        "| arm | into zh | loss | seeds |",
        "|---|---|---|---|",
        "| plain SFT | – | 3.500 | 0 |",
        "| SASFT | −35% (−39 to −31) | – | 0, 1, 2 |",
    ]
    each = tables.lines_of({**table, "each_seed": True}, tables.read_rows(tmp_path / "r.csv"))
    assert each[2:] == ["| plain SFT | – | 3.500 | 0 |", "| SASFT | −10% (−39 to −31) | – | 1 |"]
    with pytest.raises(ValueError, match="no row of the arm 'orpo'"):
        tables.lines_of({**table, "arms": {"orpo": "ORPO"}}, tables.read_rows(tmp_path / "r.csv"))
    (tmp_path / "r.csv").write_text(HEADER + rows.replace(",abc", ","), encoding="utf-8")
    with pytest.raises(ValueError, match="have no commit"):
        tables.read_rows(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text(HEADER + rows + one_seed + one_seed, encoding="utf-8")
    with pytest.raises(ValueError, match=r"has two rows of .'switching', 'sasft zh', '1'"):
        tables.read_rows(tmp_path / "r.csv")
    with pytest.raises(ValueError, match="describes no table 'other'"):
        tables.marked("other", {"switching": table}, {})
