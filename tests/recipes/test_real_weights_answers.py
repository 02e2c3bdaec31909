"""The recipe on pretrained models: choices among continuations, and sampled answers."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_gguf import WORDS
from transformers import AutoModelForCausalLM, AutoTokenizer


def call(script: ModuleType, world: Path, results: Path, *more: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows that a script has written, by arm, seed, metric and setting."""
    files = ["--texts", str(world / "texts"), "--results", str(results), "--dtype", "float32"]
    script.main([*files, *more])
    with results.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(row["arm"], row["seed"], row["metric"], row["setting"]): row for row in rows}


def test_the_likelihood_of_choices_equals_that_of_whole_texts(scripts: dict[str, ModuleType], world: Path) -> None:
    choices = scripts["choices"]
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    model = AutoModelForCausalLM.from_pretrained(world / "model").eval()
    rows = scripts["result_rows"].held_out(world / "texts" / "held_out.jsonl", 4)
    items = list(choices.make_items(rows, tokenizer, 2, 3))
    assert {item.language for item in items} == set(WORDS)
    found_BC = choices.log_likelihoods(model, items[:3])
    for item, found_C in zip(items[:3], found_BC, strict=True):
        assert len(set(item.continuations)) > 1
        for continuation, found in zip(item.continuations, found_C, strict=True):
            ids = torch.tensor([[*item.prompt, *continuation]])
            with torch.no_grad():
                nats_S = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            assert float(found) == pytest.approx(float(nats_S[-len(continuation) :].sum()), rel=1e-4)


def test_right_choices_are_counted_by_language_and_compared(
    scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path: Path
) -> None:
    where = ["--runs", str(world / "model"), str(runs / "sasft"), "--against", str(runs / "sft")]
    size = ["--per-language", "4", "--prompt-tokens", "2", "--tokens", "3"]
    found = call(scripts["choices"], world, tmp_path / "r.csv", *where, *size)
    assert {key[0] for key in found} == {"base", "sft", "sasft zh 2"}
    shares = [float(found["sasft zh 2", "42", "right choices of four", code]["value"]) for code in ("all", *WORDS)]
    assert shares[0] == pytest.approx(sum(shares[1:]) / 4, abs=1e-5)
    change = found["sasft zh 2", "42", "difference of right choices against sft", "all"]
    plain = float(found["sft", "42", "right choices of four", "all"]["value"])
    assert float(change["value"]) == pytest.approx(shares[0] - plain, abs=1e-5)
    with pytest.raises(ValueError, match="are long enough for an item; expected 4"):
        call(scripts["choices"], world, tmp_path / "r.csv", *where, "--per-language", "3", *size[2:])


def test_sampled_answers_are_kept_and_a_mask_leaves_no_chinese_in_other_answers(
    scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path: Path
) -> None:
    size = ["--per-language", "4", "--asking", "2", "--max-new-tokens", "6", "--temperature", "3"]
    where = ["--runs", str(runs / "token"), "--against", str(runs / "sft")]
    found = call(scripts["sampled"], world, tmp_path / "r.csv", *where, *size)
    setting = "into Hani, temperature 3"
    plain = found["sft", "42", "sampled answers that leave", setting]
    assert plain["n"] == "12"  # of the languages that do not write Han
    assert float(plain["value"]) > 0  # a model of random weights writes anything
    answers = json.loads((runs / "sft" / "sampled-sft-zh.json").read_text("utf-8"))["answers"]
    assert len(answers) == 4 * 4 + 2

    masked = call(scripts["sampled"], world, tmp_path / "m.csv", "--mask", *where[2:], *size)
    assert float(masked["logit_mask zh", "42", "sampled answers that leave", setting]["value"]) == 0
    change = masked["logit_mask zh", "42", "difference of sampled answers that leave against sft", setting]
    assert float(change["value"]) == pytest.approx(-float(plain["value"]), abs=1e-5)
    again = json.loads((runs / "sft" / "sampled-sft-zh.json").read_text("utf-8"))["answers"]
    assert again == answers  # those without a mask are kept, not sampled anew


@pytest.mark.parametrize(
    ("answer", "expected"), [("今天天气很好。\nEnglish: no", True), ("The 天气 is good", False), ("", False)]
)
def test_an_answers_first_line_tells_its_language(scripts: dict[str, ModuleType], answer: str, expected: bool) -> None:
    assert scripts["sampled"].mostly(answer, "zh") == expected


def test_phrases_are_counted_in_languages_of_one_script(scripts: dict[str, ModuleType]) -> None:
    sampled, arm = scripts["sampled"], scripts["result_rows"].Arm("sft", "0", "m", None, "c")
    german = "Wir lesen diese Datei zuerst. "
    answers = [german + "We will then explain how you can use the settings of this page.", german * 3]
    found = sampled.Sampled(arm, ["a", "b"], ["de", "de"], answers)
    rows = list(sampled.rows_of(found, None, Namespace(to="en", phrases=True, temperature=1.3)))
    assert [(row["metric"], row["setting"], float(row["value"])) for row in rows] == [
        ("sampled answers that leave", "into en, temperature 1.3", 0.5)
    ]
