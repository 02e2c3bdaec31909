"""The steer command shows what the library generates, and says what is wrong with what it was given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from steering_cases import feature_set
from tiny_models import qwen3, word_tokenizer
from transformers import AutoModelForCausalLM

from sae_posttrain import FeatureSet, steer
from sae_posttrain.cli import main

WORDS = "the cat sees a small house and sings there all day long"
PROMPT = "the cat sees"
SHORT = ("--max-new-tokens", "6")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tokenizer = word_tokenizer([WORDS], "<pad>", "<eos>")
    tokenizer.save_pretrained(tmp_path / "model")
    qwen3(len(tokenizer), eos_token_id=1, initializer_range=0.2).save_pretrained(tmp_path / "model")
    feature_set().save(tmp_path / "features.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    line = ["steer", "--model", "model", "--features", "features.safetensors", *SHORT, *arguments, "--json"]
    code = main(line)
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def by_library(prompt: str, alpha: float, features: FeatureSet) -> str:
    """One prompt by itself, through `generate`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), word_tokenizer([WORDS], "<pad>", "<eos>")
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with steer(model, features, alpha=alpha):
        made = model.generate(ids, max_new_tokens=6, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore:These features were found in")
@pytest.mark.parametrize("options", [[], ["--targets", "ru", "--layers", "2"]], ids=["all", "some"])
def test_each_answer_is_the_librarys(place: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    features = FeatureSet.load("features.safetensors")
    if options:
        features = features.select(["ru"])
        features = FeatureSet((features.layers[1],), features.provenance)
    prompts, alphas = [PROMPT, "a house"], ["1", "30", "-20"]
    found = shown(capsys, "--alpha", *alphas, "--prompt", *prompts, *options)
    assert [one["prompt"] for one in found] == prompts
    for one in found:
        assert [answer["alpha"] for answer in one["answers"]] == [0, 1, 30, -20]
        assert [a["text"] for a in one["answers"]] == [by_library(one["prompt"], x, features) for x in (0, 1, 30, -20)]
    assert len({answer["text"] for answer in found[0]["answers"]}) > 1


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_the_text_shows_plain_and_steered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = shown(capsys, "--alpha", "2", "-0.5", "--prompt", PROMPT)[0]["answers"]
    line = ["steer", "--model", "model", "--features", ".", *SHORT, "--alpha", "2", "-0.5", "--prompt", PROMPT]
    assert main(line) == 0
    titles = ("--- plain", "--- alpha 2", "--- alpha -0.5")
    cut = {"length": "cut at the token limit", "stop": "ended by the model"}
    assert capsys.readouterr().out.splitlines() == [
        f"=== {PROMPT}",
        *(
            line
            for title, answer in zip(titles, expected, strict=True)
            for line in (title, answer["text"], f"[{answer['tokens']} tokens, {cut[answer['finish_reason']]}]")
        ),
    ]


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_loops_and_ends_are_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = ("--max-new-tokens", "40", "--min-length", "20")
    plain, pushed = shown(capsys, "--alpha", "60", "--prompt", PROMPT, *long)[0]["answers"]
    assert pushed["loops"] == (pushed["finish_reason"] == "length")
    assert (pushed["tokens"] == 40) == (pushed["finish_reason"] == "length")
    line = ["steer", "--model", "model", "--features", "features.safetensors", "--prompt", PROMPT, *long]
    assert main([*line, "--alpha", "60"]) == 0
    ends = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    for answer, end in zip((plain, pushed), ends, strict=True):
        assert end.startswith(
            f"[{answer['tokens']} tokens, {'cut' if answer['finish_reason'] == 'length' else 'ended'}"
        )
        assert ("ends in a loop" in end) == answer["loops"]
    assert any(answer["loops"] for answer in (plain, pushed))


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_an_adapter_is_steered_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = AutoModelForCausalLM.from_pretrained("model")
    adapter = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapter.save_pretrained("adapter")
    without = shown(capsys, "--alpha", "1", "--prompt", PROMPT)
    assert shown(capsys, "--alpha", "1", "--prompt", PROMPT, "--adapter", "adapter") != without


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_the_seed_decides_what_is_sampled(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled = ("--alpha", "0", "--prompt", PROMPT, "--temperature", "2", "--top-p", "1", "--seed")
    first = shown(capsys, *sampled, "1")
    assert shown(capsys, *sampled, "1") == first
    assert shown(capsys, *sampled, "2") != first


@pytest.mark.filterwarnings("ignore:These features were found in")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layers", "3"], "No features of layers [3]: this set has layers [1, 2]."),
        (["--targets", "ko"], "No feature stands for ko: this set has ru, zh."),
        (["--alpha", "nan"], "alpha must be one finite number"),
        (["--features", "elsewhere.safetensors"], "There is no feature set at elsewhere.safetensors"),
        (["--features", "other.safetensors"], "found in owner/tiny (4 layers of width 8)"),
        (["--model", "nowhere"], "cannot load nowhere"),
        (["--chat"], "no chat template"),
        (["--prompt", ""], "holds no tokens"),
    ],
)
def test_mistakes_are_explained(place: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    feature_set(d_model=8).save("other.safetensors")
    line = ["steer", "--model", "model", "--features", "features.safetensors", "--alpha", "1", "--prompt", PROMPT]
    assert main([*line, *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_alpha_is_the_calibrated_one_unless_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = shown(capsys, "--alpha", "2.5", "--prompt", PROMPT)
    assert main(["steer", "--model", "model", "--features", "features.safetensors", "--prompt", PROMPT]) == 2
    assert "--alpha: this feature set has no calibrated alpha" in capsys.readouterr().err
    replace(FeatureSet.load("features.safetensors"), alpha=2.5).save("features.safetensors")
    assert shown(capsys, "--prompt", PROMPT) == given
