"""`sae-posttrain inspect diff` on files, with a LoRA adapter as the tuned model: what it writes the report reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain import FeatureSet, load_sae
from sae_posttrain.artefacts import MODEL_DIFFS
from sae_posttrain.cli import main
from sae_posttrain.cli.inputs import load_model
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.inspection.feature_readings import read_model_features
from sae_posttrain.report import read_runs

peft = pytest.importorskip("peft")
WORDS = ["the", "cat", "sees", "a", "small", "house", "sings", "there", "and", "it", "runs"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, a LoRA adapter of it without a tokenizer, another seed, SAEs, texts and features."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer(WORDS, "<pad>", "<eos>")
    model = qwen3(len(tokenizer), initializer_range=0.3)
    for name, noise in (("base", 0.0), ("copy", 0.0), ("seed 1", 0.002)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * torch.randn_like(parameter)
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    base = qwen3(len(tokenizer), initializer_range=0.3)
    base.name_or_path = str(folder / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["down_proj"], r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "tuned")
    other = word_tokenizer([*WORDS, "zebra", "ant"], "<pad>", "<eos>")
    other.save_pretrained(folder / "other words")
    qwen3(len(other)).save_pretrained(folder / "other words")
    for shape, settings in (("wide", {"hidden_size": 2 * WIDTH}), ("deep", {"num_hidden_layers": BLOCKS + 1})):
        tokenizer.save_pretrained(folder / shape)
        qwen3(len(tokenizer), **settings).save_pretrained(folder / shape)
    write_saes(folder / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    vectors = {name: torch.randn(2, WIDTH) for name in ("encoder", "direction")}
    numbers = {name: torch.ones(2) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(1, (7, 8), ("zh", "zh"), **vectors, **numbers, baselines={}, activations={})
    FeatureSet((layer,), Provenance("base", WIDTH, BLOCKS, "sae", {}, "", "random")).save(folder / "f.safetensors")
    rng = np.random.default_rng(0)
    for name, count in (("one", 12), ("other", 6)):
        (folder / f"{name}.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 7)) for _ in range(count)))
    return folder


def diff(place: Path, tuned: str, output: Path, *more: str) -> list[str]:
    texts = [f"first={place / 'one.txt'}", str(place / "other.txt")]
    models = [str(place / "base"), str(place / tuned), "--sae", str(place / "SAE-tiny-L0_4"), "--layers", "0", "1"]
    return ["inspect", "diff", *models, "--texts", *texts, "--permutations", "50", "--output", str(output), *more]


def test_the_report_reads_what_is_written(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run" / "diff.json"
    more = ["--noise", str(place / "seed 1"), "--features", str(place / "f.safetensors"), "--top", "3"]
    assert main(diff(place, "tuned", output, *more, "--passages", "2")) == 0
    printed = capsys.readouterr().out
    assert "base → tuned: 108 tokens in 18 units of texts, ranked by mean activation." in printed
    assert "more than any feature does in the noise models." in printed
    assert "Features of the set, by rank:" in printed
    (run,) = read_runs([tmp_path / "run"])
    (found,) = run.diffs
    assert found["groups"] == ["first", "other"]
    assert [row["rank"] for row in found["features"]] == [1, 2, 3]
    assert all(1 <= len(row["contexts"]) <= 2 for row in found["features"])
    assert all(row["noise"].keys() == {"seed 1"} for row in found["features"])
    assert [(row["layer"], row["feature"], row["target"]) for row in found["followed"]] == [(1, 7, "zh"), (1, 8, "zh")]
    for row in found["features"]:
        before, after = row["means"]["activation"]
        parts = [row["groups"][group]["activation"] for group in ("first", "other")]
        assert before == pytest.approx((2 * parts[0][0] + parts[1][0]) / 3)
        assert row["low"] <= after - before <= row["high"]


def test_without_noise_it_says_what_is_not_known(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(diff(place, "copy", tmp_path / "d.json", "--by", "pre_activation", "--passages", "0")) == 0
    assert "Without --noise" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))[MODEL_DIFFS]
    assert (found["changed"], found["features"], found["noise_score"]) == (0, [], None)


@pytest.mark.parametrize(
    ("tuned", "more", "message"),
    [
        ("other words", [], "cut the texts into different tokens"),
        ("tuned", ["--top", "0"], "--top 0"),
        ("tuned", ["--limit", "2"], "Got 4 texts"),
        ("tuned", ["--output", "diff.txt"], "ending in .json"),
        ("tuned", ["--texts", "=x.txt"], "expected NAME=FILE or FILE"),
        ("base", [], "TUNED and BASE are the same model"),
        ("wide", [], f"has {BLOCKS} blocks of width {2 * WIDTH}"),
        ("deep", [], "give checkpoints of one model"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    place: Path, tmp_path: Path, tuned: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*diff(place, tuned, tmp_path / "d.json"), *more]) == 2
    assert message in capsys.readouterr().err


def test_a_model_is_no_noise_of_itself_and_copies_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = diff(place, "copy", tmp_path / "d.json", "--passages", "0")
    assert main([*command, "--noise", str(place / "seed 1"), str(place / "base")]) == 2
    assert "--noise and BASE are the same model" in capsys.readouterr().err
    assert main([*command, "--texts", f"a={place / 'one.txt'}", f"b={place / 'one.txt'}"]) == 0
    assert "12 of 24 texts are copies of others" in caplog.text


def test_an_sae_of_another_width_is_refused(place: Path) -> None:
    model, tokenizer = load_model(str(place / "wide"), dtype="auto", device="cpu")
    saes = {0: load_sae(place / "SAE-tiny-L0_4", 0)}
    with pytest.raises(ValueError, match=f"but those of tuned are {2 * WIDTH} wide"):
        read_model_features(model, tokenizer, saes, {"en": ["the cat"] * 8}, name="tuned")
