"""SASFT in ms-swift, by ms-swift's own command line. `nox -s swift` makes the environment and runs this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sae_posttrain.integrations import ms_swift

from .runs import Case, Example, add_adapter, answers, build_case, check_labels, measure, settings_of
from .table import check, read_table, record, write_table

if find_spec("swift") is None or find_spec("swift.trainers") is None:
    pytest.skip("ms-swift is not installed: nox -s swift", allow_module_level=True)

HERE = Path(__file__).parent
TEMPLATE = HERE.parents[1] / "benchmarks" / "_swift_template.py"
PACKING = HERE / "swift_packing.py"
CONFIGS = sorted((HERE.parents[1] / "configs" / "swift").glob("*.yaml"))

ONE_STEP: Mapping[str, Any] = {
    "model_type": "qwen3",
    "template": "sae_posttrain_lab",
    "columns": '{"language": "channel"}',
    "tuner_type": "full",
    "torch_dtype": "float32",
    "split_dataset_ratio": 0,
    "optim": "sgd",
    "learning_rate": 1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,
    "weight_decay": 0,
    "max_steps": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "save_steps": 1,
    "save_only_model": True,
    "add_version": False,
    "check_model": False,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "logging_steps": 1,
    "use_cpu": True,
}


def whole_texts(case: Case) -> list[Example]:
    """Labels on every token but the first, which nothing predicts."""
    return [(ids, [-100, *ids[1:]], code) for ids, _, code in answers(case)]


@dataclass(frozen=True)
class Row:
    """One way to train: ms-swift's arguments, and what the data should become.

    `logged` is a text that ms-swift's output must hold, which shows that the setting was in force. `executable` starts
    `swift` itself, as several `processes` must. `command` is that of `swift`; a `config` stands before the arguments.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    examples: Callable[[Case], list[Example]] = answers
    processes: int = 1
    executable: bool = False
    command: str = "sft"
    config: tuple[str, ...] = ()
    logged: str = ""
    adapter: bool = False
    other_loss: bool = False


PLAIN = {"gradient_checkpointing": False, "use_logits_to_keep": False}
FOUR_STEPS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
SINGLE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
LORA = {"tuner_type": "lora"}
PACKED = {"packing": True, "packing_length": 80, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
REENTRANT, CUT = "use_reentrant: True", "use_logits_to_keep: True"
ROWS: Mapping[str, Row] = {
    "plain: no checkpointing, all logits": Row(PLAIN, executable=True, logged="use_logits_to_keep=False"),
    "its defaults: reentrant checkpointing, logits_to_keep": Row(logged=REENTRANT),
    "accumulation of 4": Row(FOUR_STEPS, logged=CUT),
    "batches of 1, accumulation of 8": Row(SINGLE, logged=CUT),
    "non-reentrant checkpointing": Row({"gradient_checkpointing_kwargs": '{"use_reentrant": false}'}, logged=CUT),
    "LoRA": Row(LORA, adapter=True, logged=REENTRANT),
    "LoRA, accumulation of 4": Row({**LORA, **FOUR_STEPS}, adapter=True, logged=REENTRANT),
    "padding-free": Row({"padding_free": True}, logged=CUT),
    "packing, accumulation of 2": Row(PACKED, logged="Packing: 100%"),
    "left padding": Row({"padding_side": "left"}, logged=CUT),
    "full-sequence loss": Row({"loss_scale": "all"}, examples=whole_texts, logged=CUT),
    "channel loss": Row({"enable_channel_loss": True}, logged="loss_zh"),
    "DFT loss": Row({"enable_dft_loss": True}, other_loss=True, logged="enable_dft_loss=True"),
    "streamed dataset": Row({"streaming": True}, logged="streaming=True"),
    "DDP": Row(
        {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}, processes=2, executable=True, logged="world_size: 2"
    ),
    "DDP, LoRA, accumulation of 2": Row(
        {**LORA, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "ddp_backend": "gloo"},
        processes=2,
        executable=True,
        adapter=True,
        logged="world_size: 2",
    ),
}


def options(arguments: Mapping[str, Any], plugins: Sequence[Path]) -> list[str]:
    """The arguments as they stand on a command line."""
    given = []
    for name, value in arguments.items():
        given += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return [*given, "--external_plugins", *map(str, plugins)]


class FailedRunError(Exception):
    """A run ended with an error; the message is what it wrote."""


class Swift:
    """ms-swift's `sft`: by the executable `swift`, or as a fork of `swift_server.py`, which is much faster."""

    def __init__(self, case: Case) -> None:
        self.case = case
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SASFT_")}
        self.environment = {**clean, "MODELSCOPE_CACHE": str(case.folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "swift_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )
        assert self._answer() == "ready"

    def run(self, output: Path, row: Row, settings: Mapping[str, Any] | None) -> str:
        """One run, with SASFT where there are settings for it; what it wrote."""
        plugins = [TEMPLATE, PACKING]
        arguments = {"model": self.case.model, "dataset": self.case.rows, "output_dir": output, **ONE_STEP}
        arguments |= {**row.arguments, **({"adapters": self.case.adapter} if row.adapter else {})}
        environment = {}
        if settings is not None:
            plugins.append(Path(ms_swift.__file__))
            arguments["callbacks"] = "sasft"
            environment = {name.upper(): str(value) for name, value in settings.items()}
        log = output.with_suffix(".log")
        given = options(arguments, plugins)
        start = self._executable if row.executable else self._fork
        code = start([*row.config, *given], environment, row, log)
        written = log.read_text(encoding="utf-8")
        if code:
            raise FailedRunError(written)
        return written

    def _executable(self, given: list[str], environment: Mapping[str, str], row: Row, log: Path) -> int:
        command = [str(Path(sys.executable).with_name("swift")), row.command, *given]
        if row.processes > 1:
            ranks = {"NPROC_PER_NODE": str(row.processes), "MASTER_PORT": "29613", "GLOO_SOCKET_IFNAME": "lo"}
            environment = {**environment, **ranks}
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                command, env={**self.environment, **environment}, cwd=self.case.folder, stdout=file, stderr=file
            )
        return done.returncode

    def _fork(self, given: list[str], environment: Mapping[str, str], row: Row, log: Path) -> int:
        job = {"command": row.command, "arguments": given, "environment": environment}
        job |= {"folder": str(self.case.folder), "log": str(log)}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    case = build_case(tmp_path_factory.mktemp("swift"))
    add_adapter(case)
    started = Swift(case)
    yield started
    started.close()


@pytest.fixture(scope="module", autouse=True)
def documented(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.config.getoption("--write-exactness"):
        write_table("ms-swift", list(ROWS))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ROWS)
def test_what_is_added_is_the_auxiliary_gradient(name: str, swift: Swift, tmp_path: Path) -> None:
    row = ROWS[name]

    def train(which: str, settings: Mapping[str, Any] | None) -> Path:
        written = swift.run(tmp_path / which, row, settings)
        assert row.logged in written
        if settings is not None:
            assert "'sasft_by_function_share': '1'" in written, "the channels did not tell the languages"
        return tmp_path / which / "checkpoint-1"

    cells = measure(swift.case, train, row.examples(swift.case), adapter=row.adapter)
    if row.other_loss:
        cells["the framework's own gradient"] = "not cross-entropy"
    record(name, cells)
    check(cells)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", ["its defaults: reentrant checkpointing, logits_to_keep", "packing, accumulation of 2"]
)
def test_labels_reach_the_callback(name: str, swift: Swift, tmp_path: Path) -> None:
    by_language = ROWS[name]
    by_label = replace(by_language, arguments={**by_language.arguments, "columns": '{"kind": "channel"}'})

    def train(which: str, settings: Mapping[str, Any] | None) -> Path:
        swift.run(tmp_path / which, by_label if which == "by label" else by_language, settings)
        return tmp_path / which / "checkpoint-1"

    check_labels(swift.case, train, column="channel")


REFUSED: Mapping[str, tuple[Row, Mapping[str, Any], str]] = {
    "an unknown setting": (Row(), {"sasft_wieght": 1}, "Unknown setting sasft_wieght: did you mean sasft_weight?"),
    "a column that is not carried": (Row(), {"sasft_language_column": "lang"}, "Rename yours with --columns"),
    "channels that are no languages": (
        Row({"columns": '{"topic": "channel"}'}),
        {},
        "set SASFT_LANGUAGE_COLUMN to none",
    ),
    "a column of labels that is not carried": (
        Row(),
        {"sasft_label_column": "kind"},
        """--columns '{"kind": "channel"}', and set sasft_label_column to channel""",
    ),
    "labels that the features do not know": (
        Row({"columns": '{"topic": "channel"}'}),
        {"sasft_label_column": "channel", "sasft_suppress": "zh"},
        "No row of the training set would be penalised. Column 'channel' holds 'math'",
    ),
    "no channels": (
        Row({"columns": "{}"}),
        {"sasft_label_column": "channel", "sasft_suppress": "zh"},
        "The training set has no column 'channel'",
    ),
    "more blocks than the features' model": (
        Row({"tuner_type": "llamapro", "llamapro_num_new_blocks": 3}),
        {},
        "These features were found in",
    ),
    "DPO": (Row({"rlhf_type": "dpo"}, command="rlhf"), {}, "SASFT does not support ms-swift's DPOTrainer"),
    "KTO": (Row({"rlhf_type": "kto"}, command="rlhf"), {}, "SASFT does not support ms-swift's KTOTrainer"),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_before_the_first_step(name: str, swift: Swift, tmp_path: Path) -> None:
    row, changes, words = REFUSED[name]
    rows = tmp_path / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for number, messages in enumerate(swift.case.messages()):
            extra = {"topic": "math", "rejected_response": "no", "label": number % 2 == 0}
            file.write(json.dumps({**messages, **extra}, ensure_ascii=False) + "\n")
    row = replace(row, arguments={**row.arguments, "dataset": rows})
    with pytest.raises(FailedRunError) as failed:
        swift.run(tmp_path / "refused", row, {**settings_of(swift.case, 0.1, None), **changes})
    written = str(failed.value)
    assert words in written, written[-3000:]
    assert "Train:" not in written
    assert not (tmp_path / "refused" / "checkpoint-1").exists()


def test_sequence_parallelism_is_refused() -> None:
    from swift.trainers import Seq2SeqTrainer

    trainer = object.__new__(Seq2SeqTrainer)
    trainer.template = SimpleNamespace(sequence_parallel_size=2)
    with pytest.raises(ValueError, match="--sequence_parallel_size 1"):
        ms_swift.check_swift_trainer(trainer)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configurations_train(path: Path, swift: Swift, tmp_path: Path) -> None:
    """`swift sft FILE`, with a tiny model on a CPU in place of the real one: ms-swift reads every key, `ENV` too."""
    row = Row({"use_hf": False, "num_train_epochs": 1}, executable=True, config=(str(path),))
    written = swift.run(tmp_path / path.stem, row, {"sasft_features": str(swift.case.features)})
    log = (tmp_path / path.stem / "logging.jsonl").read_text(encoding="utf-8")
    assert json.loads(log.splitlines()[-1])["global_step"] == 1
    assert "sasft_pre_activation_zh" in written
    assert (tmp_path / path.stem / path.name).is_file(), "ms-swift keeps a copy of the file it was given"


def test_the_documented_table_has_every_row() -> None:
    cells = read_table("ms-swift")
    assert list(dict.fromkeys(row for row, _ in cells)) == list(ROWS)
    assert "not run" not in cells.values()
