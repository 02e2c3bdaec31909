"""The page: well formed, complete in itself, and harmless whatever the runs' files hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from sae_posttrain.cli import main
from sae_posttrain.report import read_runs, write_report
from sae_posttrain.report.page import render

from .runs import calibration, features, traces, write_json, write_rows, write_run, write_runs

SECTIONS = ["rates", "examples", "diagnosis", "curves", "traces", "features", "diff", "alpha", "coverage"]
ATTACK = "</script></style></title><img src=https://evil.example/x onerror=alert(1)>\"'&{{ 7*7 }}\u202e"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Tags with their attributes, and complaints about those that do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.complaints: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        self.complaints += [f"<{tag}> never closes" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if len({name for name, _ in attrs}) < len(attrs):
            self.complaints.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.complaints.append(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    return write_report(write_runs(folder), folder / "deep" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page about runs that hold an attack in every text."""
    folder = tmp_path_factory.mktemp("attacked")
    runs = write_runs(folder, lambda text: text + ATTACK)
    return write_report(runs, folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["page", "attacked"])
def test_every_tag_closes_and_every_id_is_one(which: str, request: pytest.FixtureRequest) -> None:
    read = Reader(request.getfixturevalue(which))
    assert read.complaints == []
    ids = Counter(value for _, name, value in read.attributes if name == "id")
    assert [name for name, count in ids.items() if count > 1] == []
    inside = {value.removeprefix("#") for _, name, value in read.attributes if name == "href" and value}
    assert inside
    assert inside <= set(ids)


@pytest.mark.parametrize("which", ["page", "attacked"])
def test_nothing_is_loaded_and_nothing_runs(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    read = Reader(text)
    assert not {"script", "img", "link", "iframe", "object", "base", "foreignobject"} & set(read.tags)
    assert read.tags["style"] == 1
    assert read.tags["title"] == 1 + read.tags["figure"]  # a chart's own says what it shows
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), f"<{tag} {name}>"
        assert name != "src"
        assert not (name == "href" and not (value or "").startswith("#"))
        assert not (name == "style" and re.search(r"url|expression|http", value or "")), value
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_an_attack_is_shown_as_the_text_it_is(attacked: str) -> None:
    read = Reader(attacked)
    shown = ATTACK.replace("\u202e", "")
    # Prompts and answers, languages, scripts, targets, groups, passages, models, the model's and the SAE's names.
    assert read.text.count(shown) > 50
    for where in ("sft", "Qwen/Qwen3-1.7B-Base", "Qwen/SAE-Res-W32K", "base model"):
        assert where in read.text


def test_all_sections_are_there_with_their_charts(page: str) -> None:
    read = Reader(page)
    assert re.findall(r'<section id="(\w+)">', page) == SECTIONS
    assert "Not on this page" not in page
    # 10 curves; a trace for each of 2 layers and 4 features; 2 over alpha; a diff of 2 layers; 1 of coverage.
    curves = {"loss", "sasft_loss", "sasft_pre_activation_zh", "loop_rate/ordinary", "loop_rate/steered", "reward"}
    curves |= {"steering/reward", "steering/advantage", "eval_code_switching", "eval_repetition"}
    assert set(re.findall(r"<code>([\w/]+)</code></span></figcaption>", page)) == curves
    figures = len(re.findall(r"<figure>.*?<svg.*?</figure>", page, flags=re.DOTALL))
    assert figures == read.tags["figure"] == len(curves) + 2 + 4 + 2 + 2 + 1
    # Nothing is left of the colours that charts are drawn in, before the page's take their place.
    assert "#fe0" not in page
    assert "stroke: var(--run-1)" in page


def test_rates_are_those_of_the_answers(page: str, tmp_path: Path) -> None:
    sft, _ = write_runs(tmp_path)
    rows = [json.loads(line) for line in (sft / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    text = re.sub(r"<[^>]+>|\s+", " ", page)
    for column in ("unexpected", "loop"):
        hits = sum(bool(row[column]) for row in rows)
        assert 0 < hits < len(rows)
        assert re.search(rf"\b{hits} +of {len(rows)}\b", text)
    english = [row for row in rows if row["language"] == "en"]
    chinese = sum("Hani" in {span["script"] for span in row["unexpected"]} for row in english)
    assert re.search(rf"en → Chinese characters +{100 * chinese / len(english):.2f}%", text)


def test_the_difference_from_the_first_run_comes_with_its_chance(page: str) -> None:
    assert page.count("against sft</th>") == 3  # into zh, into any, loops
    assert re.search(r"−\d+\.\d\d points", page)
    assert re.search(r"<small>p (=|&lt;) 0\.\d+</small>", page)


def test_switches_and_loops_are_marked_where_they_stand(page: str) -> None:
    assert 'small <mark class="switch" title="Chinese characters">村庄</mark> near the river.' in page
    loop = " and then we walk to the river,"  # found from its first letter that comes again
    assert f'<mark class="first">{loop}</mark><mark class="again">{loop}</mark><mark class="first">{loop}' in page
    assert re.search(r"… and so on, for \d+ more characters", page)
    assert '<mark class="heat"' in page


def test_the_same_runs_make_the_same_page(tmp_path: Path) -> None:
    runs = read_runs(write_runs(tmp_path))
    assert render(runs) == render(runs)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "only", 0.1, level=0, prompts=3)
    (folder / "answers.jsonl").unlink()
    write_rows(tmp_path / "other" / "a.jsonl", [{"response": "fine", "loop": None}])
    page = render(read_runs([folder, tmp_path / "other"]))
    (said,) = re.findall(r"<p>Not on this page.*?</p>", page)
    assert [word in said for word in ("during training", "the features", "around a switch", "by alpha")] == [
        *(False, True, True, True)
    ]
    assert "Without training curves: other." in page
    assert "Without measured answers: only." in page
    assert re.findall(r'<section id="(\w+)">', page) == ["rates", "curves"]


def test_half_a_character_does_not_stop_the_page(tmp_path: Path) -> None:
    row = {"response": "half \ud83d of it 中", "language": "en", "unexpected": []}
    row["unexpected"] = [{"start": 15, "end": 16, "script": "Hani", "text": "中"}]
    write_rows(tmp_path / "run" / "a.jsonl", [row])
    written = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "half ? of it" in written


def test_a_long_answer_that_is_foreign_throughout_is_cut_and_marked(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 5000, "script": "Hani", "text": "中" * 5000}]
    write_rows(tmp_path / "run" / "a.jsonl", [{"response": "中" * 5000, "language": "en", "unexpected": spans}])
    page = render(read_runs([tmp_path / "run"]))
    assert len(re.findall(r'<mark class="switch"[^>]*>中{200,400}</mark>', page)) == 1
    assert "中" * 401 not in page


def test_a_calibration_that_reached_nothing_and_one_switch_are_drawn(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "repetition.calibration.json", calibration(most=0.5, plain=0.6))
    trace = traces({"before": 1.0})
    for layer in trace["switch_traces"][0]["layers"]:
        layer["average"]["error"] = [None] * len(layer["average"]["mean"])
        layer["average"]["elsewhere"] = None
        layer["average"]["mean"][3] = float("inf")
        layer["features"] = {}
    write_json(tmp_path / "run" / "trace.json", trace)
    features(layers=(26,)).save(tmp_path / "run" / "f.safetensors")
    page = render(read_runs([tmp_path / "run"]))
    assert "At none of the tried values of alpha do 90%" in page
    assert "Feature by feature" not in page
    assert re.findall(r'<section id="(\w+)">', page) == ["traces", "features", "alpha"]


def test_a_calibration_below_its_target_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "repetition.calibration.json", calibration(most=0.5))
    page = render(read_runs([tmp_path / "run"]))
    assert "At none of the tried values of alpha do 90% of the answers loop" in page
    assert "The best value is alpha 4, at layers 14 18: 50% loop there, at 1.33 times." in page


def test_the_command_writes_and_names_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_runs(tmp_path)
    assert main(["report", *map(str, runs), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").stat().st_size < 400_000
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "There is no run at" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_the_extra_is_named_where_the_charts_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    run = write_run(tmp_path / "run", 0.1, level=0, prompts=3)
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 2
    assert "pip install 'sae-posttrain[report]'" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_text_can_be_read_on_both_papers() -> None:
    style = (Path(__import__("sae_posttrain.report").report.__file__).parent / "templates" / "style.css").read_text()
    for scheme in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        for paper in ("paper", "card"):
            assert contrast(colours["ink"], colours[paper]) > 7
            assert contrast(colours["muted"], colours[paper]) > 4.5
            assert all(contrast(colours[f"run-{n}"], colours[paper]) > 4 for n in range(6))
        assert all(contrast(colours["ink"], colours[mark]) > 4.5 for mark in ("switch", "loop", "again"))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
