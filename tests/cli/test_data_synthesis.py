"""`data missing` to `data coverage`, one after the other: each reads what the one before has written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain.cli import main
from sae_posttrain.data.generators import Messages
from sae_posttrain.discovery.firing import collect_firing
from sae_posttrain.report import read_runs
from sae_posttrain.texts import load_rows

WORDS = ["the", "cat", "sees", "a", "small", "house", "sings", "there", "and", "it", "runs"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its SAEs, a small seed set and a larger pool."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer(WORDS, "<pad>")
    tokenizer.save_pretrained(folder / "model")
    qwen3(len(tokenizer), num_hidden_layers=2, initializer_range=0.3).save_pretrained(folder / "model")
    write_saes(folder / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    rng = np.random.default_rng(0)
    for name, count in (("seed", 2), ("pool", 30)):
        texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(count)]
        write(folder / f"{name}.jsonl", [{"text": text} for text in texts])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def model(place: Path) -> list[str]:
    return ["--model", str(place / "model"), "--sae", str(place / "SAE-tiny-L0_4")]


def missing(place: Path, output: Path, *more: str) -> list[str]:
    files = [str(place / "seed.jsonl"), "--pool", str(place / "pool.jsonl"), "--output", str(output)]
    return ["data", "missing", *files, *model(place), "--layer", "1", *more]


def fires(place: Path, texts: list[str]) -> list[set[int]]:
    from sae_posttrain.cli.inputs import load_model

    loaded, tokenizer = load_model(str(place / "model"), dtype="auto", device="cpu")
    sets = collect_firing(loaded, tokenizer, place / "SAE-tiny-L0_4", texts, layers=[1], progress=False)[1]
    return [set(sets[example].tolist()) for example in range(len(sets))]


ASKED: list[str] = []
ASKING = ["--generator", f"{__name__}:write_texts"]


def write_texts(chats: Sequence[Messages]) -> list[str | None]:
    """Explains by naming the first marked words; writes prompts out of the explanation and a shown text."""
    return [_written(chat[-1]["content"]) for chat in chats]


def _written(content: str) -> str:
    ASKED.append(content)
    if content.startswith("Below are passages"):
        return content.split("**")[1]
    if content.startswith("Topic:"):
        return "8"
    if content.startswith("Write one message"):
        shown = [line[2:] for line in content.splitlines() if line.startswith("- ")]
        return shown[0] if shown else "the cat sings"
    return "it runs and sings" if content.startswith("Rewrite") else "An answer."


def explaining(place: Path, targets: Path, output: Path) -> list[str]:
    texts = [str(targets), "--texts", str(place / "pool.jsonl"), *model(place)]
    return ["data", "explain", *texts, "--task", "singing", "--output", str(output), *ASKING]


def synthesizing(explained: Path, output: Path, *more: str) -> list[str]:
    options = ["--min-relevance", "8", "--per-target", "1", *ASKING, *more]
    return ["data", "synthesize", str(explained), *options, "--output", str(output)]


@pytest.fixture(scope="module")
def chain(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the first three commands, each of which reads what the one before has written."""
    folder = tmp_path_factory.mktemp("chain")
    files = {name: folder / f"{name}.jsonl" for name in ("missing", "explained", "written")}
    assert main(missing(place, files["missing"], "--weak", "2")) == 0
    assert main(explaining(place, files["missing"], files["explained"])) == 0
    assert main(synthesizing(files["explained"], files["written"], "--rewrites", "1", "--show", "1")) == 0
    return files


@pytest.fixture(scope="module")
def fired(place: Path, chain: dict[str, Path]) -> dict[str, list[set[int]]]:
    """What fires on the texts of each data set."""
    columns = {place / "seed.jsonl": "text", place / "pool.jsonl": "text", chain["written"]: "prompt"}
    return {path.stem: fires(place, [row[column] for row in load_rows(path)]) for path, column in columns.items()}


def test_missing_lists_what_few_examples_fire(
    place: Path, chain: dict[str, Path], fired: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(missing(place, tmp_path / "missing.jsonl", "--weak", "2")) == 0
    lacking = load_rows(tmp_path / "missing.jsonl")
    assert lacking == load_rows(chain["missing"])
    wanted = set().union(*fired["pool"])
    counts = {feature: sum(feature in one for one in fired["seed"]) for feature in wanted}
    assert {row["feature"]: row["examples"] for row in lacking} == {f: c for f, c in counts.items() if c < 2}
    order = [(row["examples"], -row["pool_examples"]) for row in lacking]
    assert order == sorted(order)
    assert {row["feature"]: row["pool_examples"] for row in lacking}.items() <= Counter(
        feature for one in fired["pool"] for feature in one
    ).items()
    assert f"fire {sum(map(bool, counts.values())) / len(wanted):.1%} of {len(wanted)}" in capsys.readouterr().out


def test_explain_asks_about_passages_that_fire_the_feature(place: Path, chain: dict[str, Path], fired: Any) -> None:
    explained = load_rows(chain["explained"])
    assert [row["feature"] for row in explained] == [row["feature"] for row in load_rows(chain["missing"])]
    assert all(row["explanation"] and row["relevance"] == 8 for row in explained)
    texts = [row["text"] for row in load_rows(place / "pool.jsonl")]
    for row in explained:
        sources = [own for text, own in zip(texts, fired["pool"], strict=True) if row["passages"][0] in text]
        assert any(row["feature"] in own for own in sources)


def test_synthesize_writes_prompts_rewrites_and_answers(chain: dict[str, Path], tmp_path: Path) -> None:
    explained = load_rows(chain["explained"])
    written = load_rows(chain["written"])
    assert [row["rewrite"] for row in written] == [0, 1] * len(explained)
    assert {row["completion"] for row in written} == {"An answer."}
    ASKED.clear()
    for _ in range(2):
        assert main(synthesizing(chain["explained"], tmp_path / "random.jsonl", "--random", "--no-answers")) == 0
    assert len(ASKED) == len(explained)  # the second run found all answers kept
    assert len(set(ASKED)) == 1
    assert {tuple(row) for row in load_rows(tmp_path / "random.jsonl")} == {
        ("prompt", "label", "layer", "feature", "explanation", "rewrite")
    }


def test_verify_keeps_what_fires_and_coverage_draws_it(
    place: Path, chain: dict[str, Path], fired: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, kept = load_rows(chain["written"]), tmp_path / "kept.jsonl"
    verify = ["data", "verify", str(chain["written"]), "--output", str(kept), *model(place), "--layer", "1"]
    assert main(verify) == 0
    own = [row["feature"] in one for row, one in zip(written, fired["written"], strict=True)]
    assert load_rows(kept) == [row for row, fires_own in zip(written, own, strict=True) if fires_own]
    assert f"{sum(own)} of {len(written)} examples fire their target" in capsys.readouterr().out
    assert main([*verify, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == sum(own)

    output = tmp_path / "coverage.json"
    sets = [f"synthetic={kept}", f"natural={place / 'pool.jsonl'}", "--seed-set", str(place / "seed.jsonl")]
    options = ["--targets", str(chain["missing"]), "--columns", "synthetic=prompt", "--budget", "3"]
    reading = [*model(place), "--layer", "1"]
    assert main(["data", "coverage", *sets, *options, *reading, "--output", str(output)]) == 0
    ((found,),) = [run.coverage for run in read_runs([output])]
    lacking = load_rows(chain["missing"])
    targets, by_seed = {row["feature"] for row in lacking}, {row["feature"] for row in lacking if row["examples"]}
    assert (found["targets"], found["covered"]) == (len(targets), len(by_seed))
    assert found["curves"]["natural"]["expected"][-1] == 1.0
    by_kept = set().union(*(one for one, fires_own in zip(fired["written"], own, strict=True) if fires_own))
    share = len((by_kept | by_seed) & targets) / len(targets)
    assert found["curves"]["synthetic"]["expected"][-1] == pytest.approx(share)
    assert "covered by 3\n" in capsys.readouterr().out


def test_a_pool_that_fires_nothing_often_enough_has_no_targets(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(missing(place, tmp_path / "m.jsonl", "--pool-least", "99")) == 2
    assert "No feature fires in 99 texts" in capsys.readouterr().err


def test_targets_are_rows_with_a_layer_and_a_feature(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rows, message in [
        ([{"layer": 1}], "expected whole numbers from 0 in layer and feature"),
        ([{"layer": True, "feature": 1}], "expected whole numbers from 0"),
        ([{"layer": 1, "feature": -3}], "expected whole numbers from 0"),
        ([], "holds no rows. `sae-posttrain data missing` writes an empty file where nothing is missing"),
        ([{"layer": 0, "feature": 3}], "no target of layer 1; its targets are of layer 0"),
    ]:
        targets = write(tmp_path / "targets.jsonl", rows)
        command = ["data", "missing", str(place / "seed.jsonl"), "--targets", str(targets), *model(place)]
        assert main([*command, "--layer", "1", "--output", str(tmp_path / "m.jsonl")]) == 2
        assert message in capsys.readouterr().err
    targets = write(tmp_path / "targets.jsonl", [{"layer": 1, "feature": 3}])
    synthesize = ["data", "synthesize", str(targets), "--output", str(tmp_path / "s.jsonl")]
    assert main([*synthesize, "--endpoint", "http://127.0.0.1:1/v1", "--served-model", "x"]) == 2
    assert "no row has an explanation" in capsys.readouterr().err
