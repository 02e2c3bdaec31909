"""The recipe of steered DAPO as shipped, two steps long, on a model and SAEs that its script made from a small text."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from scripts import load_script
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain import FeatureSet, discover_repetition_features

RECIPE = Path(__file__).parents[2] / "recipes" / "steered_dapo"
WORDS = ["the", "a", "cat", "dog", "house", "bird", "sees", "finds", "old", "green", "and", "then", "sings", "today"]
WIDTH, D_SAE, K = 16, 64, 4


@dataclass
class Scripts:
    run: ModuleType
    make: ModuleType
    sentences: ModuleType


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    """Other recipes have a run.py too, so these are loaded under names of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield Scripts(*(load(name) for name in ("run", "make")), importlib.import_module("sentences"))


def load(name: str) -> ModuleType:
    return load_script(RECIPE / f"{name}.py", f"steered_dapo_{name}")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "en.jsonl.gz"
    draw = random.Random(0)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for _ in range(120):
            sentence = " ".join(draw.choices(WORDS, k=draw.randint(8, 14))).capitalize()
            file.write(json.dumps({"text": f"{sentence}. Too short."}) + "\n")
    return path


@pytest.fixture(scope="module")
def made(scripts: Scripts, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looper")
    size = ["--vocabulary", "60", "--width", str(WIDTH), "--blocks", "3", "--d_sae", str(D_SAE), "--k", str(K)]
    steps = ["--nursery_steps", "2", "--steps", "2", "--sae_steps", "2"]
    scripts.make.main(["--text", str(text), "--output_dir", str(folder), *size, *steps])
    return folder


@pytest.fixture
def arguments(made: Path, text: Path, tmp_path: Path) -> list[str]:
    """The shipped YAML, cut down in size only."""
    settings = {
        "config": RECIPE / "mini.yaml",
        "model_name_or_path": made / "model",
        "text": text,
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "warmup_steps": 0,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 12,
        "soft_overlong_cache": 2,
        "loop_min_tokens": 6,
        "use_cpu": "true",
        "prompts": 3,
        "samples": "2 2",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", *str(value).split(" "))]


@pytest.fixture(scope="module")
def features(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of loops that are given: what a model of two steps writes holds none."""
    model, tokenizer = (kind.from_pretrained(made / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    (sae,) = made.glob("SAE-Res-*")
    loops = ["the cat sees the old" + " the old" * 40, "a dog sings today" + " sings today" * 40]
    found = discover_repetition_features(model, tokenizer, sae, texts=loops, layers=[1, 2], top=2, progress=False)
    path = tmp_path_factory.mktemp("features") / "features.safetensors"
    replace(found, alpha=1.5).save(path)
    return path


def run(scripts: Scripts, arguments: list[str], *more: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = scripts.run.main([*arguments, *more])
    return rows


def test_the_variants_share_a_budget_and_write_one_table(
    scripts: Scripts, arguments: list[str], features: Path, made: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.csv"
    for variant in scripts.run.VARIANTS:
        out = ["--output_dir", str(tmp_path / variant), "--results", str(results), "--features", str(features)]
        run(scripts, arguments, "--variant", variant, *out)
    with results.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["temperature"]) for row in rows] == [
        (variant, temperature) for variant in scripts.run.VARIANTS for temperature in ("0.6", "1.0")
    ]
    assert all(row["total"] == "6" for row in rows)
    assert all(0 <= float(row["low"]) <= float(row["rate"]) <= float(row["high"]) <= 1 for row in rows)
    assert all(0 <= float(row["task_reward"]) <= 1 for row in rows)
    base, *trained = rows[::2]
    assert base["rollouts"] == "0"
    assert {row["rollouts"] for row in trained} == {"8"}
    assert [row["alpha"] for row in trained] == ["", "1.5", "1.5", "1.5"]
    # Only a variant with such a row in its groups has logged one.
    assert [bool(row["steered_loop_rate"]) for row in trained] == [False, True, True, True]

    start = AutoModelForCausalLM.from_pretrained(made / "model").state_dict()
    assert not (tmp_path / "base" / "model.safetensors").exists()
    for row in trained:
        after = AutoModelForCausalLM.from_pretrained(tmp_path / row["variant"]).state_dict()
        assert any(not torch.equal(after[name], weight) for name, weight in start.items())


def test_a_lora_run_leaves_an_adapter_that_plain_peft_loads(
    scripts: Scripts, arguments: list[str], features: Path, made: Path, tmp_path: Path
) -> None:
    arguments[1] = str(RECIPE / "lora.yaml")
    row, _ = run(scripts, arguments, "--features", str(features))
    assert (row["recipe"], row["variant"]) == ("steered_dapo+lora", "steered")
    base = AutoModelForCausalLM.from_pretrained(made / "model")
    ids = torch.tensor([[1, 10, 11, 12]])
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "out").eval()
        assert not torch.equal(adapted(ids).logits, before)
        with adapted.disable_adapter():
            assert torch.equal(adapted(ids).logits, before)


def test_features_come_from_stuck_sentences_with_a_calibrated_strength(
    scripts: Scripts, arguments: list[str], made: Path, tmp_path: Path
) -> None:
    """With embeddings this large every token calls for itself: a model that loops."""
    looper = AutoModelForCausalLM.from_pretrained(made / "model")
    looper.get_input_embeddings().weight.data *= 50
    looper.save_pretrained(tmp_path / "looper")
    AutoTokenizer.from_pretrained(made / "model").save_pretrained(tmp_path / "looper")
    (sae,) = made.glob("SAE-Res-*")
    few = ["--loops", "3", "--calibration_prompts", "4", "--max_ratio", "100", "--top", "1"]
    rows = run(scripts, arguments, "--model_name_or_path", str(tmp_path / "looper"), "--sae", str(sae), *few)
    features = FeatureSet.load(tmp_path / "out" / "features.safetensors")
    assert features.provenance.selection == "repetition contrast"
    assert features.alpha in (0.4, 0.5, 0.6, 0.75)
    assert rows[0]["alpha"] == features.alpha
    assert "95% interval" in (tmp_path / "out" / "calibration.txt").read_text("utf-8")


def test_loops_run_to_the_end_of_their_row(scripts: Scripts) -> None:
    documents = iter([[5, 6, 2], [7, 8] * 60, [9, 2], [3, 4] * 60])
    rows = scripts.sentences.rows_of(documents, 2, 8)
    assert rows.tolist() == [[5, 6, 2, 7, 8, 7, 8, 7], [9, 2, 3, 4, 3, 4, 3, 4]]


@pytest.mark.parametrize("stuck", [0.0, 1.0])
def test_a_stutter_repeats_whole_words_and_ends_unless_it_is_stuck(scripts: Scripts, text: Path, stuck: float) -> None:
    train, _ = scripts.sentences.load_sentences(str(text))
    tokenizer = scripts.sentences.build_tokenizer(train, 60)
    draw, rng = scripts.sentences.told(tokenizer, train, stuck=stuck), random.Random(0)
    documents = [draw(rng) for _ in range(300)]
    assert all((document[-1] == tokenizer.eos_token_id) == (stuck == 0) for document in documents)
    assert all((len(document) > 100) == (stuck == 1) for document in documents)
    told = [tokenizer.decode(document, skip_special_tokens=True) for document in documents]
    words = {word for sentence in train for word in sentence.rstrip(".").split()}
    assert {word for one in told for word in one[: len(one) // 2].split()[:-1]} <= words
    share = sum(one in train for one in told) / len(told)
    assert share == pytest.approx(0.7 if stuck == 0 else 0, abs=0.1)


def test_held_out_sentences_are_never_trained_on(scripts: Scripts, text: Path) -> None:
    train, held_out = scripts.sentences.load_sentences(str(text))
    assert len({*train, *held_out}) == len(train) + len(held_out) > 100
    assert len(held_out) > 3
    assert all("too short" not in sentence for sentence in train)


def test_the_task_looks_at_the_first_words_only(scripts: Scripts) -> None:
    task = scripts.run.Spelling(["the cat sees a dog."])
    answers = ["the cat sees a dog", "the catt sees a dog dog dog", "the cat" + " zzz" * 9, ""]
    assert task(["x"] * 4, answers) == [1.0, 0.8, 0.4, 0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("--variant", "sft"), ValueError, "vanilla, steered"),
        (("--text", "nowhere"), FileNotFoundError, "nowhere"),
        (("--samples", "1"), ValueError, "as many"),
        ((), ValueError, "needs sae"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_loaded(
    scripts: Scripts, arguments: list[str], change: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(scripts, arguments, *change)
