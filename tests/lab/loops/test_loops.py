"""The second half of the demo at a size that says nothing but runs it all, and what its text and its task are."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

from sae_posttrain.discovery.loop_sampling import LoopSample
from sae_posttrain.feature_set import FeatureSet
from sae_posttrain.lab.loops import world
from sae_posttrain.lab.loops.demonstration import demonstrate, outcome_table
from sae_posttrain.lab.loops.documents import LANGUAGE, NURSERY, PHRASES, STUCK, WORLD, chat, exchange, story_prompts
from sae_posttrain.lab.loops.experiment import ARMS, Outcome, Settings, described, trl_config
from sae_posttrain.lab.loops.record import write_looping_answers
from sae_posttrain.lab.shared.documents import documents
from sae_posttrain.lab.shared.lexicon import ASSISTANT, END
from sae_posttrain.lab.shared.model import token_rows
from sae_posttrain.lab.shared.tokenizer import build_tokenizer
from sae_posttrain.metrics import Share, find_loop
from sae_posttrain.metrics.repetition import repetition_rate
from sae_posttrain.report import read_runs
from sae_posttrain.sampling import Response
from sae_posttrain.steering import Calibration
from sae_posttrain.steering.curve import Point

TINY = Settings(steps=1, prompts=1, group=2, measured=3, samples=2)


def test_a_stuck_story_loops_and_others_say_a_phrase_at_most_twice() -> None:
    rng = random.Random(0)
    for _ in range(200):
        _, plain = exchange(rng, LANGUAGE)
        _, stuck = exchange(rng, LANGUAGE, stuck=True)
        assert find_loop(plain) is None
        loop = find_loop(stuck)
        assert loop is not None
        assert loop.period in map(len, PHRASES)
    answers = [document[document.index(ASSISTANT) :] for document in (chat(rng, LANGUAGE) for _ in range(5000))]
    assert sum(find_loop(answer) is not None for answer in answers) / 5000 == pytest.approx(STUCK, abs=0.005)


def test_what_never_ends_fills_its_row_and_has_no_end_marker() -> None:
    tokenizer = build_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    rows = token_rows(tokenizer, NURSERY, 50, 24, seed=0)
    assert not (rows == end).any()
    # Each row is one pattern from its first word on: the words of one document are among those of its first period.
    patterns = [tokenizer.convert_tokens_to_ids(document[:24]) for document in islice(documents(NURSERY, 0), 50)]
    assert rows.tolist() == patterns
    assert (token_rows(tokenizer, WORLD, 50, 96, seed=0) == end).any()


def test_the_task_is_about_the_first_sentence_alone() -> None:
    stories = [
        " the dog sees the old bread in the garden.",
        " the dog sees the bread. the dog sees the old bread in the garden.",
        " the dog sees the old bread. the dog sees the bread in the garden.",
        "",
    ]
    assert described(stories, stories) == [1.0, 0.0, 0.5, 0.0]
    assert described(stories, [[{"role": "assistant", "content": story}] for story in stories]) == [1.0, 0.0, 0.5, 0.0]


def test_prompts_do_not_change_with_how_many_are_asked_for() -> None:
    assert story_prompts(3, 7) == story_prompts(5, 7)[:3]
    assert story_prompts(3, 7) != story_prompts(3, 8)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_in_the_steering_alone(arm: Any, tmp_path: Path) -> None:
    differing = {"steered_per_group", "steering_control"}
    mine, plain = (trl_config(str(tmp_path), name, 0, TINY).to_dict() for name in (arm, "DAPO"))
    assert {key for key in plain if mine[key] != plain[key]} <= differing


def test_the_whole_half_runs_and_names_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Finding loops of the model's own takes thousands of answers: made loops and a made curve stand in.
    monkeypatch.setattr(world, "find_own_loops", stuck_answers)
    monkeypatch.setattr(world, "calibrate", made_curve)
    output = tmp_path / "out"
    outcomes = demonstrate(output, settings=TINY)
    printed = capsys.readouterr().out
    assert [outcome.arm for outcome in outcomes] == ["before RL", "DAPO", "steered DAPO", "random direction"]
    assert {report.loops.total for outcome in outcomes for report in outcome.repetition.values()} == {6}
    assert outcome_table(outcomes) in printed
    assert "given two periods it continues" in printed
    assert all(str(path) in printed for path in output.iterdir())
    assert FeatureSet.load(output / "repetition.safetensors").alpha == 2.0
    report = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert len(report["outcomes"]) == 4
    curve = json.loads((output / "repetition.calibration.json").read_text(encoding="utf-8"))
    assert curve["best"]["alpha"] == 2.0
    runs = {run.name: run for run in read_runs([output])}
    assert runs["steered-dapo"].log
    assert set(runs["before-rl"].answers) == {"temperature 0.6", "temperature 1.0"}


def stuck_answers(*given: Any, **named: Any) -> Any:
    rng = random.Random(0)
    tokenizer = build_tokenizer()
    answers = [tokenizer.convert_tokens_to_ids(exchange(rng, LANGUAGE, stuck=True)[1][:90]) for _ in range(4)]
    return LoopSample(looped=answers, responses=4, tokens=360)


def made_curve(model: Any, tokenizer: Any, features: Any, prompts: Any, **settings: Any) -> Any:
    layers = tuple(layer.layer for layer in features.layers)
    plain, steered = Point((), 0.0, Share(0, 4, 0.0, 0.6)), Point(layers, 2.0, Share(3, 4, 0.2, 0.9), 2.5, 2.0)
    return Calibration(features, plain, (steered,), settings["target_rate"], settings["max_ratio"])


def test_answers_are_written_with_their_loops_by_character(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    _, answer = exchange(random.Random(1), LANGUAGE, stuck=True)
    ids = [tokenizer.convert_tokens_to_ids(tokens) for tokens in (answer[:90], answer[:5])]
    answers = [Response(tokenizer.decode(row), "length", len(row), tuple(row)) for row in ids]
    write_looping_answers(tmp_path / "a.jsonl", [{"prompt": "p"}, {"prompt": "q"}], answers, tokenizer)
    looped, fine = map(json.loads, (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines())
    assert fine["loop"] is None
    assert (looped["finish_reason"], looped["tokens"]) == ("length", 90)
    start, end, period = (looped["loop"][name] for name in ("start", "end", "period"))
    text = looped["response"]
    assert end == len(text)
    assert text[start : start + period] == text[start + period : start + 2 * period]
    assert find_loop(ids[0]).start == len(tokenizer(text[:start], add_special_tokens=False)["input_ids"])


def test_table_sets_temperatures_and_rewards_side_by_side() -> None:
    looping, quiet = repetition_rate(["la " * 60, "fine"]), repetition_rate(["fine", "good"])
    outcome = Outcome("DAPO", {0.6: quiet, 1.0: looping}, {0.6: 0.5, 1.0: 0.25}, {0.6: 0.0, 1.0: 0.5})
    head, line = outcome_table([outcome]).splitlines()
    assert "loops, T 0.6" in head
    assert "0.00%" in line
    assert "50.00%" in line
    assert "0.250" in line
