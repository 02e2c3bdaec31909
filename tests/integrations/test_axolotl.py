"""SASFT in Axolotl, by Axolotl's own command line: `nox -s axolotl`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import commands
from .runs import WEIGHT, Case, Example, add_adapter, answers, build_case, check_labels, measure, settings_of
from .table import check, record, write_table

pytest.importorskip("axolotl")

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"  # it would send telemetry

pytestmark = pytest.mark.timeout(3600)
PRELOAD = ("axolotl.train", "axolotl.common.datasets", "axolotl.core.builders", "peft")
PLUGIN = "sae_posttrain.integrations.axolotl.SASFTPlugin"
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = build_case(tmp_path_factory.mktemp("axolotl"))
    add_adapter(case)
    return case


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Any:
    yield
    if request.config.getoption("--write-exactness"):
        write_table("axolotl", list(ROWS))


def configuration(case: Case, name: str, sasft: Mapping[str, Any] | None, changes: Settings) -> Settings:
    """A run of one step in which SGD with rate 1 moves every weight by minus its gradient."""
    settings: Settings = {
        "base_model": str(case.model),
        "datasets": [
            {
                "path": str(case.rows),
                "ds_type": "json",
                "type": "chat_template",
                "field_messages": "messages",
                "roles_to_train": ["assistant"],
            }
        ],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": str(case.folder / "prepared"),  # with and without the languages, side by side
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,  # the rows in their order
        "dataset_num_proc": 1,
        "output_dir": str(case.folder / name / "out"),
        "sequence_len": 64,
        "pad_to_sequence_len": False,
        "micro_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "max_steps": 1,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa",
        "logging_steps": 1,
        "save_strategy": "no",
        "val_set_size": 0,
        "special_tokens": {"pad_token": "<|pad|>"},
    }
    settings |= changes
    return settings if sasft is None else {**settings, "plugins": [PLUGIN], **sasft}


def run(case: Case, name: str, sasft: Mapping[str, Any] | None, changes: Settings) -> tuple[int, Path, str]:
    """Exit status, folder of weights, and what the command printed."""
    folder = case.folder / name
    folder.mkdir(exist_ok=True)
    path, log = folder / "config.yaml", folder / "log"
    path.write_text(yaml.safe_dump(configuration(case, name, sasft, changes), allow_unicode=True), encoding="utf-8")
    words = ["axolotl", "train", str(path), "--launcher", "python"]
    status = commands.run("axolotl.cli.main:main", words, log, preload=PRELOAD, cwd=folder)
    return status, folder / "out", log.read_text(encoding="utf-8", errors="replace")


def trainer_of(case: Case, row: str, changes: Settings) -> Callable[[str, Mapping[str, Any] | None], Path]:
    def train(name: str, sasft: Mapping[str, Any] | None) -> Path:
        status, weights, log = run(case, f"{row} {name}".replace(",", "").replace(" ", "-"), sasft, changes)
        assert status == 0, log[-3000:]
        assert (sasft is None) == ("sasft_loss" not in log and "sasft_token_loss" not in log)
        return weights

    return train


LORA = {
    "adapter": "lora",
    "lora_r": 2,
    "lora_alpha": 4,
    "lora_target_modules": ["q_proj", "v_proj", "down_proj"],
}
CHECKPOINTED = {"gradient_checkpointing": True}
ROWS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "plain": ({}, {}),
    "checkpointing, its default (reentrant)": (CHECKPOINTED, {}),
    "accumulation of 2": ({"micro_batch_size": 4, "gradient_accumulation_steps": 2}, {"parts": 2}),
    "sample_packing": ({"sample_packing": True, "micro_batch_size": 1, "sequence_len": 144}, {}),
    "LoRA": (LORA, {"adapter": True}),
    "LoRA, checkpointing, its default": ({**LORA, **CHECKPOINTED}, {"adapter": True}),
}
"""Way to train → Axolotl's settings, and what the expected gradient depends on."""


@pytest.mark.parametrize("row", ROWS)
def test_what_is_added_is_the_auxiliary_gradient(row: str, case: Case) -> None:
    changes, options = ROWS[row]
    if options.get("adapter"):
        changes = {**changes, "lora_model_dir": str(case.adapter)}
    examples: list[Example] = answers(case)
    cells = measure(case, trainer_of(case, row, changes), examples, **options)
    record(row, cells)
    check(cells)


@pytest.mark.parametrize("row", ["plain", "sample_packing"])
def test_labels_reach_the_callback(row: str, case: Case) -> None:
    check_labels(case, trainer_of(case, f"labels {row}", ROWS[row][0]), column="kind")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sasft_label_column": "tone"}, "No data set has a column 'tone' (sasft_label_column)"),
        ({"sasft_label_column": "kind"}, "No row of the training set would be penalised. Column 'kind' holds 'as in"),
    ],
)
def test_labels_that_penalise_nothing_are_refused(changes: Settings, words: str, case: Case, tmp_path: Path) -> None:
    settings = settings_of(case, WEIGHT, None) | {"sasft_suppress": ["zh"], **changes}
    status, _, log = run(case, tmp_path.name, settings, {})
    assert status != 0
    assert words in log, log[-3000:]


SHIPPED = Path(__file__).parents[2] / "configs" / "axolotl" / "qwen3-1.7b-base.yaml"


def load(changes: Settings) -> Any:
    """The shipped configuration with changes, as Axolotl reads it on a machine with a GPU."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    config = DictDefault({**yaml.safe_load(SHIPPED.read_text(encoding="utf-8")), **changes})
    prepare_plugins(config)
    gpu = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "compute_capability": "sm_90"}
    return validate_config(config, capabilities=gpu, env_capabilities={"torch_version": "2.13.0"})


def test_axolotl_reads_the_shipped_configuration() -> None:
    config = load({})
    assert (config.sasft_weight, config.sasft_scale, config.sasft_suppress) == (0.05, "typical", ["zh"])
    assert config.sample_packing


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sasft_supress": "zh"}, "sasft_supress: did you mean sasft_suppress"),
        ({"sasft_weight": "much"}, "sasft_weight='much'"),
        ({"sasft_baseline": "median"}, "should be 'mean' or 'zero'"),
        ({"sasft_features": None}, "set sasft_features, or sasft_token_weight"),
        ({"rl": "dpo"}, "Leave rl out"),
        ({"pretraining_dataset": "texts", "max_steps": 5}, "Leave pretraining_dataset out"),
        ({"streaming": True, "max_steps": 5}, "streaming and sample_packing together"),
        ({"context_parallel_size": 2}, "context_parallel_size: 2"),
        ({"plugins": [PLUGIN, "axolotl.integrations.kd.KDPlugin"]}, "Leave one of the two out"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(changes: Settings, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(changes)
