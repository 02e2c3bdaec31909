"""The demo at a size that says nothing but runs it all, and the table that it ends with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

from sae_posttrain.cli import calibrate, demo, discover, discover_repetition, main, measure, steer, trainer_runs
from sae_posttrain.feature_set import FeatureSet
from sae_posttrain.lab.loops import demonstration as loops
from sae_posttrain.lab.loops.world import PLAN as LOOPS
from sae_posttrain.lab.shared.jobs import at_once
from sae_posttrain.lab.shared.model import ModelSize, Stage, new_model
from sae_posttrain.lab.shared.plan import WorldPlan
from sae_posttrain.lab.shared.record import arm_folder, write_numbers
from sae_posttrain.lab.shared.tokenizer import build_tokenizer
from sae_posttrain.lab.switching import demonstration
from sae_posttrain.lab.switching.demonstration import demonstrate, outcome_table
from sae_posttrain.lab.switching.documents import NURSERY, WORLD
from sae_posttrain.lab.switching.experiment import Outcome, Settings, answer_loss
from sae_posttrain.lab.switching.questions import questions
from sae_posttrain.lab.switching.world import PLAN as SWITCHING
from sae_posttrain.metrics import Share

TINY = Settings(steps=2, batch=4, top=2, texts=4, prompts=6, samples=2, held_out=20)
# So small a model babbles in all languages: its answers switch for certain, and the switches are traced.
PLAN = WorldPlan(
    ModelSize(width=16, blocks=3, heads=2, head_width=8),
    (Stage(NURSERY, row=24, batch=4, steps=2), Stage(WORLD, row=32, batch=4, steps=4)),
    sae_steps=4,
    layers=(2,),
)


def test_the_whole_demo_runs_and_names_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = demonstrate(tmp_path / "out", suppress="ko", settings=TINY, plan=PLAN)
    printed = capsys.readouterr().out
    assert [outcome.arm for outcome in outcomes] == ["SFT", "SASFT", "random features", "unlikelihood"]
    assert {rate.total for outcome in outcomes for rate in outcome.switching.values()} == {12}
    assert outcome_table(outcomes, "ko") in printed
    assert "given two periods it continues" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("base", "SAE-Res-lab-W1024-L0_16", "sft", "sasft", "random-features", "unlikelihood"),
        *("sasft.safetensors", "random-features.safetensors", "table.txt", "results.json"),
        *("contexts.json", "trace.json"),
    }
    assert all(str(path) in printed for path in (tmp_path / "out").iterdir())
    assert "One seed, 12 answers per rate" in printed
    features, control = (
        FeatureSet.load(tmp_path / "out" / f"{arm}.safetensors") for arm in ("sasft", "random-features")
    )
    assert features.provenance.selection == "monolinguality"
    assert control.provenance.selection == "random"
    report = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert report["suppress"] == "ko"
    assert len(report["outcomes"]) == 4


@pytest.mark.parametrize("only", [None, "switching", "loops"])
@pytest.mark.parametrize("trained", [False, True], ids=["shipped", "trained"])
def test_the_command_runs_the_halves_and_reports_on_both(
    only: Any, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def stand_in(half: Any, arms: Any) -> Any:
        def run(output: Any, *, jobs: Any, **named: Any) -> Any:
            assert jobs is at_once
            calls.append((half, named))
            for arm in arms:
                folder = arm_folder(output, arm)
                folder.mkdir(parents=True)
                write_numbers(folder, {"eval_loss": 1.0})
            return [SimpleNamespace(arm=arm) for arm in arms]

        return run

    monkeypatch.setattr(demonstration, "demonstrate", stand_in("switching", ["SFT", "SASFT"]))
    monkeypatch.setattr(loops, "demonstrate", stand_in("loops", ["before RL", "DAPO"]))
    given = ["demo", "--output", str(tmp_path), "--suppress", "ru", "--seed", "3", "--processes", "1"]
    given += ["--only", only] if only else []
    assert main([*given, "--train-worlds"] if trained else given) == 0
    expected = {
        "switching": {"suppress": "ru", "seed": 3, "plan": SWITCHING if trained else None},
        "loops": {"seed": 3, "plan": LOOPS if trained else None},
    }
    assert calls == [(half, named) for half, named in expected.items() if only in (None, half)]
    printed = capsys.readouterr().out
    assert f"Open it in a browser:\n{tmp_path / 'report.html'}" in printed
    assert ("discover language" in printed, "discover repetition" in printed) == (only != "loops", only != "switching")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("sasft" in page, "before-rl" in page) == (only != "loops", only != "switching")


@pytest.mark.parametrize("half", demo.HALVES)
def test_what_the_demo_tells_to_try_next_is_what_the_commands_take(
    half: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by the real parsers; nothing is run."""
    taken = []

    def keep(*args: Any) -> Any:
        taken.append(args)
        return 0

    def stop(*args: Any) -> None:
        taken.append(args)
        raise ValueError("The settings were read.")

    looping = (discover_repetition, "run")
    commands = [(discover, "run_language"), looping, (calibrate, "run"), (steer, "run")]
    for module, name in [*commands, (measure.code_switching, "run"), (measure.repetition, "run")]:
        monkeypatch.setattr(module, name, keep)
    monkeypatch.setattr(trainer_runs, "inputs_of", stop)
    lines = demo.closing(Path("page.html"), [half], Path("a folder")).replace("\\\n", " ").splitlines()
    given = [shlex.split(line)[1:] for line in lines if line.startswith("sae-posttrain ")]
    for arguments in given:
        trains = arguments[0] in ("sft", "grpo")
        assert main([*arguments, *(("--use_cpu", "true", "--bf16", "false") if trains else ())]) == (2 if trains else 0)
        assert ("The settings were read." in capsys.readouterr().err) == trains
    assert len(taken) == len(given) == {"switching": 4, "loops": 5}[half]
    assert Path("a folder") in Path(taken[0][0].features).parents


def test_table_sets_rates_and_losses_side_by_side() -> None:
    def outcome(arm: Any, switched: Any, loss: Any) -> Any:
        return Outcome(arm, {0.8: Share(switched, 100, 0.01, 0.09)}, loss)

    table = outcome_table([outcome("SFT", 5, 1.0), outcome("SASFT", 2, 1.005)], "zh").splitlines()
    assert "switches to zh, top_p 0.8" in table[0]
    assert "5.00%  [1.00%, 9.00%]" in table[1]
    assert "(+0.00%)" in table[1]
    assert "2.00%" in table[2]
    assert "1.0050 (+0.50%)" in table[2]


def test_answer_loss_is_the_mean_over_answer_tokens_however_they_are_batched() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = new_model(tokenizer, ModelSize(width=16, blocks=1, heads=2, head_width=8)).eval()
    rows = questions(7, 1)
    total, counted = 0.0, 0
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False))["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))
        counted += len(ids) - start
    assert answer_loss(model, tokenizer, rows, batch_size=3) == pytest.approx(total / counted, rel=1e-4)


def test_a_missing_library_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in ("sparsify", "trl") else object())
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    assert "needs trl: pip install 'sae-posttrain[trl,report]'" in capsys.readouterr().err
    assert main(["demo", "--output", str(tmp_path / "out"), "--train-worlds"]) == 2
    assert "needs trl and sparsify: pip install 'sae-posttrain[trl,report,train-sae]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
