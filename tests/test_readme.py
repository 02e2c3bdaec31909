"""The README's code runs as it stands, on tiny models under the names it uses."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from versions import TRL_CAN_STEER_ROLLOUTS

from sae_posttrain import cli, discover_language_features
from sae_posttrain.cli import discover_repetition

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL, SAE = "Qwen/Qwen3-1.7B-Base", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
FEATURES = "features/qwen3-1.7b-base.safetensors"
TEXTS = {
    "en": ["the cat sees a house", "a house sings", "the small cat sings"],
    "zh": ["猫 看见 房子", "小 房子 唱歌 猫", "唱歌 唱歌"],
    "ru": ["кошка видит дом", "дом поёт там", "маленький дом"],
    "ko": ["고양이가 집을 봐요", "작은 집이 노래해요", "집이 작은"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's names exist: model, SAE, texts, data, configurations."""
    folder = tmp_path_factory.mktemp("readme")
    tokenizer = word_tokenizer((text for texts in TEXTS.values() for text in texts), "<pad>", "<eos>")
    tokenizer.save_pretrained(folder / MODEL)
    model = qwen3(len(tokenizer), num_hidden_layers=28, eos_token_id=1)
    model.save_pretrained(folder / MODEL)
    write_saes(folder / SAE, (26, 27), d_sae=512, width=WIDTH)
    for code, texts in TEXTS.items():
        (folder / f"{code}.txt").write_text("\n".join(texts), encoding="utf-8")
    rows = [{"prompt": t[0], "completion": f" {t[1]}", "language": code} for code, t in TEXTS.items()]
    write_rows(folder / "data" / "sft" / "train.jsonl", rows)
    answers = [{"prompt": t[0], "response": t[1], "language": code} for code, t in TEXTS.items()]
    write_rows(folder / "answers.jsonl", answers)
    write_rows(folder / "before.jsonl", answers)
    write_rows(folder / "prompts.jsonl", [{"prompt": TEXTS["en"][0], "language": "en"}])
    shutil.copytree(ROOT / "configs", folder / "configs")
    with (folder / "configs" / "sasft" / "qwen3-1.7b-base.yaml").open("a", encoding="utf-8") as config:
        config.write("use_cpu: true\n")  # the one thing that a machine without an accelerator must add
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_shell_commands(place: Path) -> None:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    printed = []
    for block in blocks("bash"):
        if block.startswith("make "):
            continue
        done = subprocess.run(["bash", "-euc", block], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    measured, compared, steered = printed
    assert (place / "features" / "qwen3-1.7b-base.safetensors").is_file()
    assert (place / "runs" / "sasft" / "model.safetensors").is_file()
    assert "Hani" in measured
    assert "report.html" in compared
    assert re.findall(r"^--- (.*)$", steered, flags=re.MULTILINE) == ["plain", "alpha 1", "alpha 2", "alpha -1"]


def test_commands_that_need_a_model_which_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the real parser, not run: tests/cli runs them on models that loop."""
    given: list[argparse.Namespace] = []

    def keep(args: argparse.Namespace) -> int:
        given.append(args)
        return 0

    monkeypatch.setattr(discover_repetition, "run", keep)
    monkeypatch.setattr(cli.calibrate, "run", keep)
    (block,) = blocks("sh")
    for command in block.replace("\\\n", " ").splitlines():
        name, *arguments = shlex.split(command)
        assert name == "sae-posttrain"
        assert cli.main(arguments) == 0
    discover, calibrate = given
    assert calibrate.features == discover.output
    assert calibrate.model == discover.model


def test_make_targets() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_python(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    discover_language_features(model, tokenizer, SAE, TEXTS, layers=[26, 27]).save(FEATURES)
    settings: dict[str, Any] = {"max_steps": 1, "use_cpu": True, "bf16": False, "logging_steps": 1}
    names: dict[str, Any] = {
        "SFTTrainer": lambda model, args, **kwargs: SFTTrainer(model, args, processing_class=tokenizer, **kwargs),
        "model": model,
        "tokenizer": tokenizer,
        "args": SFTConfig("runs/sft", **settings),
        "dataset": Dataset.from_json("data/sft/train.jsonl"),
        "chinese_texts": TEXTS["zh"],
        "english_texts": TEXTS["en"],
        "prompts": tokenizer(TEXTS["en"][:1] * 8, return_tensors="pt", return_token_type_ids=False),
        "correct": lambda completions, **kwargs: [float(len(text)) for text in completions],
    }
    shutil.copy(FEATURES, "features/repetition.safetensors")
    rollouts = {**settings, "max_completion_length": 4, "steering_alpha": 1.0}  # not calibrated, unlike the README's
    shown, logged = blocks("python"), set[str]()
    assert len(shown) == 6
    for block in shown:
        if "SteeredGRPO" in block and not TRL_CAN_STEER_ROLLOUTS:
            continue
        # The README's second trainer would train for three epochs in bf16; one step on the CPU shows as much.
        shortened = block.replace("sasft_weight=0.05,", f"sasft_weight=0.05, **{settings},")
        shortened = shortened.replace('loss_type="dapo")', f'loss_type="dapo", **{rollouts})')
        assert shortened != block or "Config(" not in block
        exec(shortened, names)
        if "trainer" in names:
            logged |= {key for log in names["trainer"].state.log_history for key in log}
    assert {"sasft_loss", "sasft_token_loss"} <= logged
    assert ("loop_rate/steered" in logged) == TRL_CAN_STEER_ROLLOUTS
    assert names["report"].overall.hits == 1
    assert names["direction"].shape == (WIDTH,)
    assert names["answers"].shape[0] == 8
