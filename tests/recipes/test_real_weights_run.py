"""The driver of the recipe on pretrained models: the steps of a YAML file, and a run of the shipped one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from real_weights_world import RECIPE


@pytest.fixture
def run(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["run"]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two seeds, each of which appends its number to a file, and a step that always runs."""
    (tmp_path / "write.py").write_text(
        "import sys\nwith open(sys.argv[1], 'a') as file:\n    file.write(sys.argv[2])\n", encoding="utf-8"
    )
    described = {
        "seeds": [0, 1],
        "values": {"write": f"{tmp_path}/write.py", "file": "{output}/written"},
        "steps": [
            {"name": "{word}-{seed}", "each": [{"word": "a"}, {"word": "b"}], "run": "{write} {file} {word}{seed}"},
            {"name": "sum", "always": True, "run": "{write} {file} ="},
        ],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    return tmp_path / "tiny.yaml"


def call(run: ModuleType, experiment: Path, *more: str) -> str:
    """What the steps have written after a call."""
    output = experiment.parent / "out"
    run.main(["--experiment", str(experiment), "--models", "m", "--output", str(output), *more])
    return (output / "written").read_text(encoding="utf-8") if (output / "written").exists() else ""


def test_steps_run_in_order_and_finished_ones_are_skipped(run: ModuleType, experiment: Path) -> None:
    assert call(run, experiment, "--list") == ""
    assert call(run, experiment, "--seeds", "1", "--only", "b-*") == "b1"
    assert call(run, experiment) == "b1a0a1b0="
    record = json.loads((experiment.parent / "out" / "steps" / "a-0.json").read_text("utf-8"))
    assert 0 <= record["cpu_seconds"] <= record["seconds"] + 1
    assert call(run, experiment) == "b1a0a1b0=="
    changed = experiment.read_text("utf-8").replace("{word}{seed}", "{word}{seed}!")
    experiment.write_text(changed, encoding="utf-8")  # a step with another command is another step
    assert call(run, experiment, "--only", "a-1") == "b1a0a1b0==a1!"


def test_a_step_that_fails_ends_the_call_and_is_run_again(run: ModuleType, experiment: Path) -> None:
    write = experiment.parent / "write.py"
    good = write.read_text("utf-8")
    write.write_text("raise SystemExit('no luck')", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"Step a-0 failed with status 1(.|\n)*no luck"):
        call(run, experiment)
    write.write_text(good, encoding="utf-8")
    assert call(run, experiment) == "a0a1b0b1="


def test_wrong_names_and_files_are_explained(run: ModuleType, experiment: Path) -> None:
    with pytest.raises(ValueError, match=r"No step is called 'c-\*'; the steps are a-0, a-1, b-0, b-1, sum"):
        call(run, experiment, "--only", "c-*")
    with pytest.raises(FileNotFoundError, match=r"expected .*switching"):
        call(run, experiment.parent / "none.yaml")
    for old, new, message in (
        ("{word}-{seed}", "{word}", "several steps are called a, b"),
        ("{word}{seed}", "{wort}{seed}", "'wort' is none of"),
        ("always", "allways", "unknown key allways"),
    ):
        text = experiment.read_text("utf-8")
        experiment.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            call(run, experiment)
        experiment.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("path", sorted((RECIPE / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_experiments_name_scripts_that_exist(run: ModuleType, path: Path) -> None:
    where = {name: name for name in ("models", "output", "corpus", "results")}
    steps = run.read_steps(path.stem, {**where, "here": RECIPE})
    assert steps
    for step in steps:
        script, *words = step.command
        assert (script == "-m" and words[0] == "sae_posttrain") or Path(script).is_file(), step.name
        assert json.dumps(words).count("{") == 0, step.name
