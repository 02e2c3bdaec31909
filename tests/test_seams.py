"""What we rely on in TRL, transformers and PEFT beyond their documented surface.

Each test runs it, and its message says what moved and which of our files uses it. Where the supported versions differ,
the test says from which version on.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_models import MODELS, make, qwen3, token_ids, word_tokenizer
from tokenizers import decoders, pre_tokenizers
from transformers import GenerationConfig, TrainerCallback
from transformers.convert_slow_tokenizer import bytes_to_unicode
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from versions import HOOKS_LIE_INSIDE_CHECKPOINTS

from sae_posttrain.residual import decoder_blocks
from sae_posttrain.training.calling import calling_trainer

TEXTS = ["the cat sees a house", "a house", "the small cat sings today", "the house"]
ROWS = Dataset.from_list([{"text": text, "language": "en"} for text in TEXTS])


def make_trainer(folder: Path, kind: type[SFTTrainer] = SFTTrainer, **settings: Any) -> SFTTrainer:
    """Steps of two micro-batches, on texts whose every token has a label."""
    tokenizer = word_tokenizer(TEXTS, "<pad>", "<eos>")
    arguments = {
        **{"output_dir": str(folder), "max_steps": 1, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": False},
        **{"use_cpu": True, "bf16": False, "report_to": "none"},
    }
    config = SFTConfig(**(arguments | settings))
    model = qwen3(len(tokenizer))
    return kind(model, config, train_dataset=ROWS, eval_dataset=ROWS, processing_class=tokenizer)


@dataclass(frozen=True)
class Call:
    """What `compute_loss` was called with, and what the trainer said of itself at that moment."""

    labels: torch.Tensor
    columns: frozenset[str]
    num_items: Any
    training: bool
    is_in_train: bool
    accumulation: int


@dataclass(frozen=True)
class Seen:
    calls: list[Call]
    logs: list[dict[str, float]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One training step and one evaluation, seen from attributes in front of the trainer's methods."""
    trainer = make_trainer(
        tmp_path_factory.mktemp("seen"), eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2
    )
    seen = Seen([], [])
    compute_loss, log = trainer.compute_loss, trainer.log

    def watched_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call(
            inputs["labels"].clone(),
            frozenset(inputs),
            kwargs.get("num_items_in_batch"),
            trainer.model.training,
            trainer.is_in_train,
            trainer.current_gradient_accumulation_steps,
        )
        seen.calls.append(call)
        return compute_loss(model, inputs, *args, **kwargs)

    def watched_log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        seen.logs.append(dict(logs))
        log(logs, *args, **kwargs)

    trainer.compute_loss, trainer.log = watched_loss, watched_log
    trainer.train()
    return seen


class TestStep:
    def test_the_loss_and_the_log_are_looked_up_on_the_instance(self, seen: Seen) -> None:
        moved = "no longer looked up on the trainer itself; SASFTCallback stands in front (training/sasft/callback.py)"
        assert len(seen.calls) == 4, f"Trainer.compute_loss is {moved}"
        assert any("loss" in logs for logs in seen.logs), f"Trainer.log is {moved}"

    def test_training_and_evaluation_are_told_apart(self, seen: Seen) -> None:
        modes = [(call.training, call.is_in_train) for call in seen.calls]
        assert modes == [(True, True)] * 2 + [(False, True)] * 2, (
            "model.training no longer says that a loss is a training loss; SASFTEngine.compute_loss goes by it"
        )

    def test_the_batch_has_tokens_and_labels(self, seen: Seen) -> None:
        wanted = {"input_ids", "labels", "attention_mask"}
        assert all(wanted <= call.columns for call in seen.calls), "batches have other names; SASFTEngine reads them"

    def test_items_are_the_predicted_tokens_of_the_whole_step(self, seen: Seen) -> None:
        micro_batches = seen.calls[:2]
        predicted = sum(int((call.labels[:, 1:] != -100).sum()) for call in micro_batches)
        assert [int(call.num_items) for call in micro_batches] == [predicted] * 2, (
            "num_items_in_batch counts something else (before transformers 5.10 it counted first tokens too); "
            "training/sasft/engine.py divides by it"
        )

    def test_accumulation_is_known_while_the_loss_is_computed(self, seen: Seen) -> None:
        found = [call.accumulation for call in seen.calls[:2]]
        assert found == [2, 2], "Trainer.current_gradient_accumulation_steps moved; SASFTEngine._add divides by it"

    @pytest.mark.parametrize("name", ["get_cp_size", "get_sp_size", "get_tp_size"])
    def test_one_process_is_not_parallel(self, name: str, tmp_path: Path) -> None:
        size = getattr(make_trainer(tmp_path), name, lambda: None)()
        assert size == 1, f"Trainer.{name} moved; training/sasft/engine.py refuses or scales by it"


class Watcher(TrainerCallback):
    """What a callback is told, and the note that it leaves in the checkpoint."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note = state.stateful_callbacks.get("note")
        self.found |= {"trainer": calling_trainer(), "model": kwargs.get("model"), "note": note}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.stateful_callbacks["note"] = {"step": state.global_step}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[SFTTrainer, Watcher]]:
    """A run, and one that goes on from its checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for steps in (1, 2):
        trainer, watcher = make_trainer(folder, save_strategy="steps", save_steps=1, max_steps=steps), Watcher()
        trainer.add_callback(watcher)
        trainer.train(resume_from_checkpoint=steps > 1)
        runs.append((trainer, watcher))
    return runs


class TestCallback:
    def test_the_trainer_is_on_the_call_stack(self, runs: list[tuple[SFTTrainer, Watcher]]) -> None:
        trainer, watcher = runs[0]
        assert watcher.found["trainer"] is trainer, (
            "no frame below on_train_begin holds the trainer as `self`; SASFTCallback finds its trainer there"
        )

    def test_the_model_is_among_the_arguments(self, runs: list[tuple[SFTTrainer, Watcher]]) -> None:
        trainer, watcher = runs[0]
        assert watcher.found["model"] is trainer.model, "callbacks no longer get model=…; HookCallback hooks its blocks"

    def test_a_checkpoint_is_saved_by_a_method_of_the_instance(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1)
        save, saved = trainer._save_checkpoint, []

        def watched(*args: Any, **kwargs: Any) -> None:
            saved.append(trainer.state.global_step)
            save(*args, **kwargs)

        trainer._save_checkpoint = watched
        trainer.train()
        assert saved == [1], (
            "Trainer._save_checkpoint is no longer looked up on the trainer itself; training/sasft puts refreshed "
            "baselines into the state there"
        )

    def test_notes_in_the_state_go_into_the_checkpoint_and_come_back(
        self, runs: list[tuple[SFTTrainer, Watcher]]
    ) -> None:
        moved = "; training/sasft/record.py keeps the run's features there"
        folder = Path(runs[0][0].args.output_dir) / "checkpoint-1"
        saved = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["stateful_callbacks"]
        assert saved.get("note") == {"step": 1}, f"TrainerState.stateful_callbacks is not saved as it stands{moved}"
        assert runs[1][1].found["note"] == {"step": 1}, f"it is not loaded before on_train_begin on resume{moved}"


class TestDataset:
    def test_a_column_is_let_through_by_the_signature_columns(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        columns: list[set[str]] = []

        def watched(collate: Callable[..., Any]) -> Callable[..., Any]:
            def collator(examples: list[dict[str, Any]]) -> Any:
                columns.append(set(examples[0]))
                return collate([{k: v for k, v in example.items() if k != "language"} for example in examples])

            return collator

        trainer.data_collator = watched(trainer.data_collator)
        next(iter(trainer.get_train_dataloader()))
        trainer._set_signature_columns_if_needed()
        trainer._signature_columns = [*trainer._signature_columns, "language"]
        next(iter(trainer.get_train_dataloader()))
        assert ["language" in found for found in (columns[0], columns[-1])] == [False, True], (
            "Trainer._signature_columns no longer decides what reaches data_collator; training/sasft/callback.py and "
            "trainer.py let the language column through with it"
        )

    def test_the_training_set_is_prepared_first_by_name_and_with_labels(self, tmp_path: Path) -> None:
        prepared: list[tuple[str, set[str]]] = []

        class Watching(SFTTrainer):
            def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
                dataset = super()._prepare_dataset(*args, **kwargs)
                prepared.append((args[-1], set(dataset.column_names)))
                return dataset

        make_trainer(tmp_path, Watching)
        expected = ["dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"]
        found = list(inspect.signature(SFTTrainer._prepare_dataset).parameters)[1:]
        assert found == expected, (
            "SFTTrainer._prepare_dataset has other parameters; training/sasft/trainer.py overrides it"
        )
        assert [name for name, _ in prepared] == ["train", "eval"], (
            "SFTTrainer prepares other sets or in another order; SASFTTrainer knows the training set by it"
        )
        assert {"input_ids", "labels", "language"} <= prepared[0][1], (
            "SFTTrainer._prepare_dataset gives no labels, as before TRL 1.7, or drops columns; SASFTTrainer packs both"
        )

    @pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
    def test_packing_carries_a_list_of_the_tokens_length(self, strategy: str) -> None:
        rows = Dataset.from_dict(
            {"input_ids": [[1, 2, 3], [4, 5]], "labels": [[1, 2, 3], [4, 5]], "extra": [[7] * 3, [8] * 2]}
        )
        packed = pack_dataset(rows, 5, strategy)[0]
        assert packed["extra"] == [7, 7, 7, 8, 8], (
            "pack_dataset no longer packs other columns; SASFTTrainer packs languages as one"
        )

    def test_positions_start_again_where_a_packed_example_does(self) -> None:
        rows = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]], "labels": [[1, 2, 3], [4, 5]]})
        collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
        for kind, examples in (("padding-free", list(rows)), ("packed", [pack_dataset(rows, 5, "bfd")[0]])):
            assert collator(examples)["position_ids"].tolist() == [[0, 1, 2, 0, 1]], (
                f"position_ids of a {kind} row do not start again with each example; segments_of in "
                "training/sasft/segments.py tells segments by them"
            )

    def test_the_collator_leaves_unknown_columns_alone(self) -> None:
        collator = DataCollatorForLanguageModeling(pad_token_id=0)
        batch = collator([{"input_ids": [1, 2], "labels": [1, 2], "language": "zh"}])
        assert set(batch) == {"input_ids", "labels", "attention_mask"}, (
            "TRL's collator reads other columns now; LanguageCollator adds its own afterwards"
        )


def test_the_fields_of_the_model_card(tmp_path: Path) -> None:
    class Named(SFTTrainer):
        _tag_names = ["a-tag"]  # noqa: RUF012
        _name = "A name"
        _paper = {"title": "A title", "id": "1234.56789"}  # noqa: RUF012

    make_trainer(tmp_path, Named).create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    missing = [stated for stated in ("a-tag", "A name", "A title", "1234.56789") if stated not in card]
    assert not missing, (
        f"TRL's model card no longer shows {missing} of _tag_names, _name, _paper; SASFTTrainer sets them"
    )


def test_the_parser_gives_back_what_it_does_not_know_by_where_it_stood(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path}\nbf16: false\nuse_cpu: true\nin_file: 1\n", encoding="utf-8")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
    *values, from_file, from_line = parser.parse_args_and_config(
        ["--config", str(config), "--on_line", "2"], return_remaining_strings=True, separate_remaining_strings=True
    )
    moved = "TrlParser.parse_args_and_config answers otherwise; cli/sft.py names the nearest setting from it"
    assert [type(one) for one in values] == [ScriptArguments, SFTConfig, ModelConfig], moved
    assert (from_file, from_line) == (["--in_file", "1"], ["--on_line", "2"]), moved


class TestModel:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_block_returns_a_bare_tensor(self, name: str) -> None:
        model = make(name)
        outputs: list[Any] = []
        handle = decoder_blocks(model)[0].register_forward_hook(lambda module, args, output: outputs.append(output))
        ids = token_ids()
        model(input_ids=ids)
        handle.remove()
        assert isinstance(outputs[0], torch.Tensor), (
            f"blocks of {name} return {type(outputs[0]).__name__}; residual.py then takes its first item"
        )
        assert outputs[0].shape[:2] == ids.shape, f"blocks of {name} return other dimensions than (B, S, D)"

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_a_checkpointed_block_runs_its_hooks_once_in_the_forward(self, reentrant: bool) -> None:
        model = make().train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        with_gradient: list[bool] = []
        decoder_blocks(model)[0].register_forward_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
        model(input_ids=token_ids())
        assert with_gradient == [not (reentrant and HOOKS_LIE_INSIDE_CHECKPOINTS)], (
            "gradient checkpointing wraps another part of a block: from transformers 5.23 on it wraps `forward` and "
            "hooks lie outside; before, `__call__`, where residual.py stands around `_gradient_checkpointing_func`"
        )

    def test_wrappers_hold_the_model_under_the_names_we_know(self) -> None:
        model = make()
        compiled: Any = torch.compile(model)
        assert compiled._orig_mod is model, "torch.compile moved the model; residual.unwrap takes _orig_mod"
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
        assert adapted.get_base_model() is model, "PEFT moved the model; residual.unwrap asks get_base_model()"

    def test_generation_fills_what_is_unset_from_the_model(self) -> None:
        model, ids = make(), token_ids(rows=1)
        asked = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}

        def next_token(**own: Any) -> int:
            model.generation_config = GenerationConfig(**own)
            mask = torch.ones_like(ids)
            return int(model.generate(ids, attention_mask=mask, generation_config=GenerationConfig(**asked))[0, -1])

        first = next_token()
        assert next_token(suppress_tokens=[first]) != first, (
            "generate no longer reads model.generation_config; generation.py puts another in its place for nothing"
        )


class TestTokenizer:
    def test_bytes_are_spelled_as_byte_level_vocabularies_do(self) -> None:
        assert set(bytes_to_unicode()) == set(range(256)), (
            "bytes_to_unicode moved; training/sasft/segments.py spells by it"
        )
        assert set(bytes_to_unicode().values()) == set(pre_tokenizers.ByteLevel.alphabet())

    def test_the_backend_tells_its_decoder(self) -> None:
        tokenizer = word_tokenizer(TEXTS, "<pad>")
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
        kind = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder", {}).get("type")
        assert kind == "ByteLevel", "the tokenizer's JSON moved; training/sasft/segments.py tells byte-level ones by it"
