"""The SASFT recipe as shipped, two steps long, on a model, SAEs and a corpus made here."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import random
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from scripts import load_script
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from two_processes import launch

from sae_posttrain import FeatureSet

RECIPE = Path(__file__).parents[2] / "recipes" / "sasft"
WORDS = {
    "en": ["the", "cat", "sees", "a", "small", "house", "and", "sings", "today"],
    "zh": list("猫看见一个小房子今天唱歌"),
    "ru": ["кошка", "видит", "маленький", "дом", "и", "поёт", "сегодня", "там"],
    "ko": ["고양이가", "작은", "집을", "보고", "오늘", "노래한다", "그리고", "여기"],
}
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
    "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WIDTH, BLOCKS, DICTIONARY = 16, 3, 64


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_script(RECIPE / "run.py", "sasft_recipe")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for code, words in WORDS.items():
        glue = "" if code == "zh" else " "
        with gzip.open(folder / f"{code}.jsonl.gz", "wt", encoding="utf-8") as file:
            for _ in range(80):
                text = glue.join(draw.choices(words, k=draw.randint(9, 16)))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<user>", "<assistant>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([" ".join(words) for words in WORDS.values()], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes") / f"SAE-Res-tiny-W{DICTIONARY}-L0_8"
    folder.mkdir()
    torch.manual_seed(1)
    for layer in range(BLOCKS):
        shapes = {
            "W_enc": (DICTIONARY, WIDTH),
            "W_dec": (WIDTH, DICTIONARY),
            "b_enc": (DICTIONARY,),
            "b_dec": (WIDTH,),
        }
        torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, folder / f"layer{layer}.sae.pt")
    return folder


@pytest.fixture
def arguments(model: Path, sae: Path, corpus: Path, tmp_path: Path) -> list[str]:
    """The shipped YAML, cut down in size only."""
    settings = {
        "config": RECIPE / "mini.yaml",
        "model_name_or_path": model,
        "sae": sae,
        "corpus": corpus,
        "output_dir": tmp_path / "out",
        "suppress": "zh",
        "layers": "1 2",
        "top": 2,
        "max_steps": 2,
        "warmup_steps": 0,
        "per_device_train_batch_size": 4,
        "discovery_texts": 12,
        "train_texts": 8,
        "heldout_texts": 2,
        "prompts": 2,
        "top_p": "0.9",
        "samples": "2",
        "max_new_tokens": 6,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", *str(value).split(" "))]


def run(recipe: ModuleType, arguments: list[str], *more: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = recipe.main([*arguments, *more])
    return rows


def test_a_lora_run_leaves_an_adapter_that_plain_peft_loads(
    recipe: ModuleType, arguments: list[str], model: Path, tmp_path: Path
) -> None:
    (row,) = run(recipe, arguments, "--use_peft", "--lora_r", "4")
    assert (row["recipe"], row["variant"], row["suppress"], row["top_p"]) == ("sasft+lora", "sasft", "zh", 0.9)
    assert row["total"] == 3 * 2 * 2  # languages but zh, prompts, samples
    features = FeatureSet.load(tmp_path / "out" / "features.safetensors")
    assert features.targets == ("zh",)
    assert features.provenance.selection == "monolinguality"

    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.tensor([[2, 40, 41, 3, 50]])
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "out").eval()
        after = adapted(ids).logits
    assert not torch.equal(before, after)
    with adapted.disable_adapter(), torch.no_grad():
        assert torch.equal(adapted(ids).logits, before)


def test_the_three_variants_share_data_and_write_one_table(
    recipe: ModuleType, arguments: list[str], tmp_path: Path
) -> None:
    results = tmp_path / "results.csv"
    for variant in recipe.VARIANTS:
        out = str(tmp_path / variant)
        run(recipe, arguments, "--variant", variant, "--output_dir", out, "--results", str(results))
    with results.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["sft", "sasft", "random"]
    assert all(set(row) == set(rows[0]) for row in rows)
    assert all(float(row["low"]) <= float(row["rate"]) <= float(row["high"]) for row in rows)
    assert all(float(row["heldout_loss"]) > 0 for row in rows)
    assert not (tmp_path / "sft" / "features.safetensors").exists()
    chosen, drawn = (FeatureSet.load(tmp_path / variant / "features.safetensors") for variant in ("sasft", "random"))
    assert drawn.provenance.selection == "random"
    for ours, control in zip(chosen.layers, drawn.layers, strict=True):
        assert len(ours.ids) == len(control.ids) == 2
        assert not set(ours.ids) & set(control.ids)
    responses = [(tmp_path / variant / "responses.jsonl").read_text("utf-8") for variant in recipe.VARIANTS]
    prompts = [[json.loads(line)["prompt"] for line in text.splitlines()] for text in responses]
    assert prompts[0] == prompts[1] == prompts[2]


@pytest.mark.slow
def test_two_processes_take_over_from_the_script(
    recipe: ModuleType, arguments: list[str], model: Path, tmp_path: Path
) -> None:
    """The command of the README, on what one run of the script left, two steps long."""
    run(recipe, arguments)
    (block,) = re.findall(r"```bash\n(accelerate launch .*?)```", (RECIPE / "README.md").read_text("utf-8"), re.DOTALL)
    command = block.replace("\\\n", " ").replace("MODEL", str(model)).replace("runs/zh-sasft-0", str(tmp_path / "out"))
    command = command.replace("runs/zh-sasft-two", str(tmp_path / "two"))
    before, words = (shlex.split(part) for part in command.split(" -m sae_posttrain "))
    code, stderr = launch(Path(before[-3]).stem, "sae_posttrain", *words, "--max_steps", "2", "--bf16", "false")
    assert code == 0, stderr
    trained, start = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "two", model))
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True))


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.delitem(sys.modules, "run", raising=False)  # another recipe has a script of this name
    return importlib.import_module("expected")


def test_an_expected_rate_is_the_sum_of_the_probabilities_of_a_switch(
    recipe: ModuleType, expected: ModuleType, arguments: list[str], tmp_path: Path
) -> None:
    run(recipe, arguments, "--variant", "sasft", "--samples", "1", "--prompts", "1", "--top_p", "1.0")
    folder = tmp_path / "out"
    row = next(row for row in expected.own_answers(str(folder), [1.0]) if row["language"] == "en")
    features = FeatureSet.load(folder / "features.safetensors")
    found = expected.measure(str(folder), "zh", [row], features, sampled=True)[1.0]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    trained = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = tokenizer(f"<user>{row['prompt']}<assistant>", add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
    chinese = [i for i in range(len(tokenizer)) if any("\u4e00" <= c <= "\u9fff" for c in tokenizer.decode([i]))]
    by_hand = 0.0
    for length in range(len(answer)):
        with torch.no_grad():
            logits = trained(torch.tensor([start + answer[:length]])).logits[0, -1]
        by_hand += float(logits.softmax(-1)[chinese].sum())
        if answer[length] in chinese:
            break
    assert found["expected"] == pytest.approx(by_hand, rel=1e-4)
    assert by_hand > 0
    assert found["prone"] == 1  # at top_p 1 every position can switch
    assert found["mean_share_on_prone"] == pytest.approx(1)


def test_held_out_paragraphs_are_never_trained_on(recipe: ModuleType, corpus: Path) -> None:
    settings = recipe.RecipeArguments(corpus=str(corpus), languages=["en", "zh"])
    train, held_out = recipe.split_corpus(settings)
    for code in settings.languages:
        assert held_out[code]
        assert not set(train[code]) & set(held_out[code])
        with gzip.open(corpus / f"{code}.jsonl.gz", "rt", encoding="utf-8") as lines:
            assert {*train[code], *held_out[code]} == {json.loads(line)["text"] for line in lines}


def test_prompts_that_hold_another_script_are_left_out(recipe: ModuleType) -> None:
    texts = ["кошка видит дом", "кошка видит 房子", "кошка видит house"]
    assert recipe.clean_prompts(texts, "ru") == ["кошка", "кошка"]


@pytest.mark.parametrize("text", ["the cat sees a small house", "猫看见一个小房子", "Transformers"])
def test_prompt_and_answer_make_up_the_paragraph(recipe: ModuleType, text: str) -> None:
    prompt, answer = recipe.split_paragraph(text)
    assert prompt + answer == text
    assert len(prompt) >= len(text) // 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("--variant", "grpo"), ValueError, "sft, sasft, random"),
        (("--suppress", "de"), ValueError, "en, zh, ru, ko"),
        (("--corpus", "nowhere"), FileNotFoundError, "nowhere"),
        (("--samples", "1", "2"), ValueError, "as many"),
        (("--sae", ""), ValueError, "needs sae"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_loaded(
    recipe: ModuleType, arguments: list[str], change: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(recipe, arguments, *change)
