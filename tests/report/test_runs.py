"""What is picked up of a run's folder, and what is said of one that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_posttrain.cli import main
from sae_posttrain.report import read_runs
from sae_posttrain.report.curves import training_curves
from sae_posttrain.report.rates import comparisons

from .runs import calibration, features, traces, write_json, write_rows, write_run, write_runs


def test_every_part_is_found(tmp_path: Path) -> None:
    sft, sasft = read_runs(write_runs(tmp_path))
    assert (sft.name, sasft.name) == ("sft", "sasft")
    assert len(sasft.log) == 45
    assert sasft.suppress == ["zh"]
    assert sasft.results == {"eval_loss": 1.2, "eval_runtime": 3.0}
    assert [len(rows) for rows in sasft.answers.values()] == [240]
    assert set(sasft.features) == {"features", "control"}
    assert set(sasft.calibrations) == {"repetition"}
    assert len(sasft.traces) == 3
    assert len(sasft.contexts) == 8
    assert not sft.features


def test_a_folder_stands_for_those_in_it_but_for_checkpoints(tmp_path: Path) -> None:
    write_runs(tmp_path)
    write_json(tmp_path / "sft" / "checkpoint-5" / "trainer_state.json", {"log_history": []})
    write_json(tmp_path / "base" / "config.json", {"hidden_size": 8})
    assert [run.name for run in read_runs([tmp_path])] == ["sasft", "sft"]
    assert [run.name for run in read_runs([tmp_path / "sft", tmp_path])] == ["sft", "sasft"]
    assert [run.name for run in read_runs([tmp_path / "sft"])] == ["sft"]


def test_names_are_as_short_as_tells_runs_apart(tmp_path: Path) -> None:
    for name in ("one/sft", "two/sft", "two/plain"):
        write_run(tmp_path / name, 0.1, level=0, prompts=3)
    runs = read_runs([tmp_path / "one/sft", tmp_path / "two/sft", tmp_path / "two/plain"])
    assert [run.name for run in runs] == ["one/sft", "two/sft", "plain"]


def test_runs_of_like_names_all_keep_one_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (write_run(tmp_path / name, 0.1, level=0, prompts=3) for name in ("v-1.7", "v-1.8"))
    (tmp_path / "l1").symlink_to(one)
    (tmp_path / "l2").symlink_to(two)
    assert [run.name for run in read_runs([tmp_path / "l1", tmp_path / "l2"])] == ["v-1.7", "v-1.8"]
    shutil.copy(one / "answers.jsonl", tmp_path / "v-1.7.jsonl")
    assert [run.name for run in read_runs([one, tmp_path / "v-1.7.jsonl"])] == ["v-1.7", "v-1.7.jsonl"]
    monkeypatch.chdir(one)
    assert [run.name for run in read_runs(["."])] == ["v-1.7"]


def test_the_log_is_the_last_checkpoints_where_the_run_has_none_of_its_own(tmp_path: Path) -> None:
    for step in (20, 100, 3):
        state = {"log_history": [{"step": step, "loss": 1.0}]}
        write_json(tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json", state)
    (run,) = read_runs([tmp_path / "run"])
    assert run.log == [{"step": 100, "loss": 1.0}]


def test_single_files_are_runs_too(tmp_path: Path) -> None:
    sft, sasft = write_runs(tmp_path)
    shutil.copy(sft / "answers.jsonl", tmp_path / "other.jsonl")
    runs = read_runs([tmp_path / "other.jsonl", sasft / "repetition.calibration.json", sasft / "features.safetensors"])
    assert [run.name for run in runs] == ["other", "repetition.calibration", "features"]
    assert list(runs[1].calibrations) == ["repetition"]


def test_what_is_not_for_a_report_is_left_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.1, level=0, prompts=3)
    write_rows(run / "prompts.jsonl", [{"prompt": "no response"}])
    write_rows(run / "unmeasured.jsonl", [{"response": "by no measure"}])
    write_rows(run / "confused.jsonl", [{"response": "in a wrong language", "language": "fr", "confused": []}])
    (run / "model.safetensors").write_bytes(b"not even a header")
    (run / "tokenizer.json").write_text("{" + " " * 2**21 + "}", encoding="utf-8")
    write_json(run / "config.json", {"model_type": "qwen3"})
    write_json(run / "list.json", [1, 2])
    (run / "note.json").write_bytes('{"name": "é"}'.encode("latin-1"))
    (run / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    (run / "words.jsonl").write_text("no JSON\n", encoding="utf-8")
    (run / "words-latin-1.jsonl").write_bytes('{"name": "é"}\n'.encode("latin-1"))
    (run / "deep.jsonl").write_text("[" * 100_000, encoding="utf-8")
    (found,) = read_runs([run])
    assert list(found.answers) == ["answers"]
    assert not found.features
    assert not found.traces


def test_a_folder_with_nothing_for_a_report_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "base" / "config.json", {})
    with pytest.raises(ValueError, match=r"base has no file for a report\. Expected trainer_state\.json"):
        read_runs([tmp_path / "base"])
    with pytest.raises(FileNotFoundError, match="no run at"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", "[1]"),
        ("trainer_state.json", "{"),
        ("trainer_state.json", '{"log_history": 5}'),
        ("answers.jsonl", '{"response": "one", "loop": null}\n{"response": 3, "loop": null}'),
        ("answers.jsonl", '{"response": "one", "loop": null}\nnot json'),
        ("answers.jsonl", '{"response": "one", "loop": null}\n' + "[" * 100_000),
        ("answers.jsonl", '{"response": "one", "loop": null}\n{"response": "two", "temperature": 1' + "0" * 400 + "}"),
        ("x.json", '{"switch_traces": 5}'),
        ("x.json", '{"top_contexts": null}'),
        ("x.json", '{"target_rate": ' + "[" * 100_000),
        ("trainer_state.json", "[" * 100_000),
        ("trainer_state.json", '{"log_history": [{"step": 1, "loss": 1' + "0" * 400 + "}]}"),
        ("eval_results.json", '{"eval_loss": 1' + "0" * 400 + "}"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} is damaged.*Write it again"):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", {"response": "one", "loop": {"start": 0}}),
        ("a.jsonl", {"response": "one", "loop": {"start": 0, "end": 99, "period": 1}}),
        ("a.jsonl", {"response": "one", "language": "en", "unexpected": [{"start": 0}]}),
        ("a.jsonl", {"response": "one", "language": "en", "unexpected": 3}),
        ("trace.json", {"switch_traces": [{"model": "m"}]}),
        ("contexts.json", {"top_contexts": [{"layer": "many"}]}),
        ("c.calibration.json", {**calibration(), "points": [{"alpha": 1}]}),
    ],
)
def test_parts_of_another_shape_are_refused_before_a_page_is_made(name: str, content: object, tmp_path: Path) -> None:
    from sae_posttrain.report.page import render

    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged, or was written by another version"):
        render(read_runs([tmp_path]))


def test_offsets_and_means_of_unlike_length_are_refused(tmp_path: Path) -> None:
    from sae_posttrain.report.page import render

    broken = traces({"m": 1.0})
    broken["switch_traces"][0]["offsets"].pop()
    write_json(tmp_path / "trace.json", broken)
    with pytest.raises(ValueError, match="15 offsets, but 16 means"):
        render(read_runs([tmp_path]))


def test_the_same_features_in_two_runs_are_one_deck(tmp_path: Path) -> None:
    from sae_posttrain.report.cards import decks

    for name in ("one", "two"):
        features().save(tmp_path / name / "features.safetensors")
    features(selection="random").save(tmp_path / "one" / "a-control.safetensors")
    chosen, control = decks(read_runs([tmp_path]))
    assert chosen.runs == ("one", "two")
    assert (len(chosen.cards), len(chosen.rest)) == (6, 2)
    assert [card.score for card in chosen.cards] == sorted((card.score for card in chosen.cards), reverse=True)
    assert control.selection == "random"


def test_heat_is_a_share_of_the_features_highest_value(tmp_path: Path) -> None:
    from sae_posttrain.report.cards import decks

    chosen = features(layers=(26,))
    chosen.save(tmp_path / "f.safetensors")
    pieces = [[["a", 1.0], ["b", 4.0]], [["c", 2.0], ["d", -3.0]]]
    passages = [{"group": "zh", "peak": 4.0, "pieces": one} for one in pieces]
    found = {"layer": 26, "feature": chosen.layers[0].ids[0], "target": "zh", "contexts": passages}
    write_json(tmp_path / "contexts.json", {"top_contexts": [found]})
    (deck,) = decks(read_runs([tmp_path]))
    (card,) = (card for card in deck.cards if card.passages)
    assert [[token.heat for token in passage.tokens] for passage in card.passages] == [[0.25, 1.0], [0.5, 0.0]]


def test_a_local_folder_shows_only_its_name(tmp_path: Path) -> None:
    from sae_posttrain.report.cards import decks

    features(lambda text: text.replace("Qwen/", "/home/somebody/")).save(tmp_path / "f.safetensors")
    (deck,) = decks(read_runs([tmp_path]))
    assert (deck.base_model, deck.sae) == ("Qwen3-1.7B-Base", "SAE-Res-W32K")


def test_switches_into_what_was_kept_out_come_first_and_leave_out_its_own_writers(tmp_path: Path) -> None:
    rows = [
        {"response": "a 中", "language": "en", "unexpected": [{"start": 2, "end": 3, "script": "Hani"}]},
        {"response": "a да", "language": "en", "unexpected": [{"start": 2, "end": 4, "script": "Cyrl"}]},
        {"response": "一", "language": "zh", "unexpected": []},
        {"response": "一", "language": "ja", "unexpected": []},
        {
            "response": "これは这个です。",
            "language": "ja",
            "unexpected": [{"start": 3, "end": 5, "script": "Hani", "language": "zh"}],
        },
    ]
    write_rows(tmp_path / "answers.jsonl", rows)
    state = {"stateful_callbacks": {"SASFT": {"suppress": ["zh"]}}, "log_history": []}
    write_json(tmp_path / "trainer_state.json", state)
    kept_out, overall = comparisons(read_runs([tmp_path]))
    (slipped,), (left,) = kept_out.overall.values(), overall.overall.values()
    assert kept_out.title == "Answers that switch into zh"
    assert (slipped.hits, slipped.total) == (2, 4)
    assert (left.hits, left.total) == (3, 5)
    assert list(overall.details) == ["en → Chinese characters", "en → Cyrillic", "ja → zh words"]


@pytest.mark.parametrize(("code", "total"), [("hy", 2), ("ja", 3), ("sr-Latn", 1)])
def test_what_was_kept_out_is_told_of_where_nothing_switched(code: str, total: int, tmp_path: Path) -> None:
    """Armenian has no display name, Japanese three scripts, and a tag may name the one."""
    rows: list[dict[str, Any]] = [
        {"response": "…", "language": language, "unexpected": []} for language in ("en", "hy", "zh")
    ]
    write_rows(tmp_path / "answers.jsonl", rows if code != "sr-Latn" else rows[:2])
    state = {"stateful_callbacks": {"SASFT": {"suppress": [code]}}, "log_history": []}
    write_json(tmp_path / "trainer_state.json", state)
    kept_out, _ = comparisons(read_runs([tmp_path]))
    (slipped,) = kept_out.overall.values()
    assert kept_out.title == f"Answers that switch into {code}"
    assert (slipped.hits, slipped.total) == (0, total)


def test_a_language_nobody_knows_has_no_comparison_of_its_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "answers.jsonl", [{"response": "…", "language": "en", "unexpected": []}])
    state = {"stateful_callbacks": {"SASFT": {"suppress": ["no such"]}}, "log_history": []}
    write_json(tmp_path / "trainer_state.json", state)
    (left,) = comparisons(read_runs([tmp_path]))
    assert left.title == "Answers that leave their language for any other"


def test_runs_are_compared_with_the_plain_one_on_the_same_prompts(tmp_path: Path) -> None:
    def rows(hits: int, prompts: int = 40) -> list[dict[str, object]]:
        span = {"start": 0, "end": 1, "script": "Hani"}
        return [
            {"prompt": f"p{n}", "response": "中", "language": "en", "unexpected": [span] * (n < hits)}
            for n in range(prompts)
        ]

    for name, hits in (("a-sasft", 4), ("b-sft", 30)):
        write_rows(tmp_path / name / "answers.jsonl", rows(hits))
    write_rows(tmp_path / "c-other" / "answers.jsonl", rows(1, prompts=20))
    state = {"stateful_callbacks": {"SASFT": {"suppress": ["ko"]}}, "log_history": []}
    write_json(tmp_path / "a-sasft" / "trainer_state.json", state)
    found = comparisons(read_runs([tmp_path]))[-1]
    assert found.against == "b-sft"
    assert set(found.differences) == {"a-sasft", "c-other"}
    assert found.differences["c-other"] is None
    difference = found.differences["a-sasft"]
    assert difference is not None
    assert difference.difference == pytest.approx(-26 / 40)
    assert difference.p_value < 0.001


def test_settings_in_one_file_are_told_apart(tmp_path: Path) -> None:
    rows = [{"response": "x", "loop": None, "temperature": t} for t in (0.7, 1.0) for _ in range(3)]
    rows[0]["loop"] = {"start": 0, "end": 1, "period": 1}
    write_rows(tmp_path / "answers.jsonl", rows)
    found = comparisons(read_runs([tmp_path]))
    assert [one.name for one in found] == ["answers, temperature 0.7", "answers, temperature 1.0"]
    assert [rate.hits for one in found for rate in one.overall.values()] == [1, 0]


def test_thinking_has_comparisons_of_its_own(tmp_path: Path) -> None:
    """Written by `measure`, of the answers that think."""
    rows = [{"response": f"<think>So.{extra}</think>Fine.", "language": "en"} for extra in ("", " 想", " 好")]
    write_rows(tmp_path / "given.jsonl", [*rows, {"response": "Fine.", "language": "en"}])
    given, output = str(tmp_path / "given.jsonl"), str(tmp_path / "run" / "answers.jsonl")
    assert main(["measure", "code-switching", "--responses", given, "--output", output]) == 0
    answers, thinking = comparisons(read_runs([tmp_path / "run"]))
    assert (answers.title, thinking.title) == ("Answers that leave their language", "Thinking that leaves its language")
    counts = [(rate.hits, rate.total) for one in (answers, thinking) for rate in one.overall.values()]
    assert counts == [(0, 4), (2, 3)]


def test_phrases_in_a_language_of_the_same_script_go_by_their_language(tmp_path: Path) -> None:
    span = {"start": 0, "end": 7, "script": "Latn", "text": "c'est là", "language": "fr"}
    write_rows(tmp_path / "a.jsonl", [{"response": "c'est là, they say", "language": "en", "unexpected": [span]}])
    (found,) = comparisons(read_runs([tmp_path]))
    assert list(found.details) == ["en → fr phrases"]


def test_curves_come_in_the_order_of_what_matters_and_leave_out_the_rest(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = [{"step": 1, "grad_norm": 1.0, "sasft_drift_layer_26": 0.1, "loss": 1.0, "sasft_unknown_share": 0.0}]
    log += [{"step": 2, "sasft_penalised_share": True, "loss": "nan", "sasft_new_number": 2.0, "eval_repetition": 0.5}]
    write_json(tmp_path / "trainer_state.json", {"log_history": log})
    runs = read_runs([tmp_path])
    curves = training_curves(runs, {runs[0].name: 0})
    assert [curve.name for curve in curves] == [
        *("eval_repetition", "loss", "sasft_drift_layer_26", "sasft_new_number")
    ]
    assert curves[2].title == "Drift of layer 26"


def test_numbers_too_large_for_an_axis_are_gaps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = [{"step": step, "loss": loss} for step, loss in enumerate((2.0, 1e308, -1e308, 9e299, -9e299, 1.0))]
    write_json(tmp_path / "trainer_state.json", {"log_history": [*log, {"step": 1e308, "loss": 5.0}]})
    (run,) = read_runs([tmp_path])
    (curve,) = training_curves([run], {run.name: 0})
    assert ": 2 to 1." in str(curve.chart)


def test_the_loss_of_reinforcement_learning_has_a_chart_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, more in (("sft", {}), ("grpo", {"reward": 0.5, "rewards/correct/mean": 0.4})):
        write_json(tmp_path / name / "trainer_state.json", {"log_history": [{"step": 1, "loss": 1.0, **more}]})
    runs = read_runs([tmp_path / "sft", tmp_path / "grpo"])
    curves = training_curves(runs, {"sft": 0, "grpo": 1})
    assert [(curve.name, curve.title) for curve in curves] == [
        *(("loss", "Training loss"), ("reward", "Reward"), ("loss", "Policy loss")),
        ("rewards/correct/mean", "Reward: correct"),
    ]
    assert ["sft: 1" in str(curve.chart) for curve in curves] == [True, False, False, False]
    assert ["grpo: 1" in str(curve.chart) for curve in curves] == [False, False, True, False]


def test_a_loop_of_tokens_that_are_no_text_is_counted_but_not_shown(tmp_path: Path) -> None:
    from sae_posttrain.report.examples import loops

    write_rows(tmp_path / "a.jsonl", [{"response": "hm", "loop": {"start": 2, "end": 2, "period": 0}}])
    (run,) = read_runs([tmp_path])
    assert loops(run) == []
    assert [rate.hits for rate in comparisons([run])[0].overall.values()] == [1]
