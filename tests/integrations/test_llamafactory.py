"""SASFT in LLaMA-Factory, by a command that stands in for `llamafactory-cli train`: `nox -s llamafactory`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import commands
from .runs import Case, add_adapter, answers, build_case, measure
from .table import check, record, write_table

pytest.importorskip("llamafactory")

pytestmark = pytest.mark.timeout(3600)
PRELOAD = ("llamafactory.train.tuner", "sae_posttrain.integrations.llamafactory", "peft")
OURS = "sae_posttrain.integrations.llamafactory:run_with_sasft"
THEIRS = "llamafactory.cli:main"
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = build_case(tmp_path_factory.mktemp("llamafactory"))
    add_adapter(case)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {"file_name": case.rows.name, "formatting": "sharegpt", "columns": {"messages": "messages"}}
    info = {"lab": {**described, "tags": tags}}
    (case.folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return case


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Any:
    yield
    if request.config.getoption("--write-exactness"):
        write_table("llamafactory", list(ROWS))


def configuration(case: Case, name: str, sasft: Mapping[str, Any] | None, changes: Settings) -> Settings:
    """A run of one step in which SGD with rate 1 moves every weight by minus its gradient."""
    settings: Settings = {
        "model_name_or_path": str(case.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "lab",
        "dataset_dir": str(case.folder),
        "cutoff_len": 64,
        "disable_shuffling": True,
        "output_dir": str(case.folder / name / "out"),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "disable_gradient_checkpointing": True,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "overwrite_cache": True,
    }
    settings |= changes
    return settings if sasft is None else {**settings, **sasft}


def run(case: Case, name: str, sasft: Mapping[str, Any] | None, changes: Settings) -> tuple[int, Path, str]:
    """Exit status, folder of weights, and what the command printed."""
    folder = case.folder / name
    folder.mkdir(exist_ok=True)
    path, log = folder / "config.yaml", folder / "log"
    path.write_text(yaml.safe_dump(configuration(case, name, sasft, changes), allow_unicode=True), encoding="utf-8")
    words = ["llamafactory-cli", "train", str(path)] if sasft is None else ["llamafactory.py", str(path)]
    status = commands.run(THEIRS if sasft is None else OURS, words, log, preload=PRELOAD, cwd=folder)
    return status, folder / "out", log.read_text(encoding="utf-8", errors="replace")


def trainer_of(case: Case, row: str, changes: Settings) -> Callable[[str, Mapping[str, Any] | None], Path]:
    def train(name: str, sasft: Mapping[str, Any] | None) -> Path:
        status, weights, log = run(case, f"{row} {name}".replace(",", "").replace(" ", "-"), sasft, changes)
        assert status == 0, log[-3000:]
        assert (sasft is None) == ("sasft_loss" not in log and "sasft_token_loss" not in log)
        return weights

    return train


CHECKPOINTED = {"disable_gradient_checkpointing": False}
LORA = {"finetuning_type": "lora"}
ROWS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "plain": ({}, {}),
    "checkpointing, its default (reentrant)": (CHECKPOINTED, {}),
    "accumulation of 2": ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, {}),
    "neat_packing": ({"neat_packing": True}, {}),
    "LoRA": (LORA, {"adapter": True}),
    "LoRA, checkpointing, its default": ({**LORA, **CHECKPOINTED}, {"adapter": True}),
}
"""Way to train → LLaMA-Factory's settings, and what the expected gradient depends on."""


@pytest.mark.parametrize("row", ROWS)
def test_what_is_added_is_the_auxiliary_gradient(row: str, case: Case) -> None:
    changes, options = ROWS[row]
    if options.get("adapter"):
        changes = {**changes, "adapter_name_or_path": str(case.adapter)}
    cells = measure(case, trainer_of(case, row, changes), answers(case), **options)
    record(row, cells)
    check(cells)


def test_labels_are_refused(case: Case) -> None:
    settings = {"sasft_features": str(case.label_features), "sasft_suppress": ["x"], "sasft_label_column": "kind"}
    status, _, log = run(case, "labels", settings, {})
    assert status != 0
    assert "LLaMA-Factory drops the column of labels" in log, log[-3000:]


def test_llamafactory_reads_the_shipped_configuration() -> None:
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams.parser import _parse_train_args

    from sae_posttrain.integrations.llamafactory import split_config

    shipped = Path(__file__).parents[2] / "configs" / "llamafactory" / "qwen3-1.7b-base.yaml"
    _, rest = split_config(yaml.safe_load(shipped.read_text(encoding="utf-8")))
    _, data, training, tuning, _ = _parse_train_args({**rest, "use_cpu": True})
    assert data.template in TEMPLATES
    assert (tuning.stage, tuning.finetuning_type, training.warmup_steps) == ("sft", "full", 100)
