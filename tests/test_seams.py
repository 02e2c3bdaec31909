"""What we rely on in TRL and transformers beyond their documented surface: each test says what moved."""

import inspect

import pytest
from datasets import Dataset
from transformers import Trainer
from trl import SFTTrainer, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


@pytest.mark.parametrize("name", ["_set_signature_columns_if_needed", "get_cp_size", "get_sp_size", "get_tp_size"])
def test_methods_of_the_trainer(name: str) -> None:
    assert callable(getattr(Trainer, name, None)), f"Trainer.{name} moved; training/sasft uses it"


@pytest.mark.parametrize("name", ["_signature_columns", "is_in_train", "current_gradient_accumulation_steps"])
def test_attributes_of_the_trainer(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(Trainer), f"Trainer.{name} moved; training/sasft uses it"


def test_the_step_looks_its_loss_up_on_the_instance() -> None:
    moved = "Trainer.training_step no longer calls self.compute_loss, which SASFTCallback stands in front of"
    assert "self.compute_loss(" in inspect.getsource(Trainer.training_step), moved


def test_a_checkpoint_is_saved_by_a_method_of_the_instance() -> None:
    moved = "Trainer no longer calls self._save_checkpoint(model, trial), which refreshed baselines are added to"
    assert "self._save_checkpoint(model, trial)" in inspect.getsource(Trainer._maybe_log_save_evaluate), moved


def test_the_training_set_is_prepared_first_and_by_name() -> None:
    expected = ["dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"]
    found = list(inspect.signature(SFTTrainer._prepare_dataset).parameters)[1:]
    assert found == expected, "SFTTrainer._prepare_dataset has other parameters; SASFTTrainer overrides it"
    source = inspect.getsource(SFTTrainer.__init__)
    first = source.index("self._prepare_dataset(")
    assert '"train"' in source[first : first + 200], "SFTTrainer no longer prepares the training set first, as 'train'"


def test_packing_carries_a_list_of_the_tokens_length() -> None:
    rows = Dataset.from_dict(
        {"input_ids": [[1, 2, 3], [4, 5]], "labels": [[1, 2, 3], [4, 5]], "extra": [[7] * 3, [8] * 2]}
    )
    packed = pack_dataset(rows, 5, "bfd")[0]
    assert packed["extra"] == [7, 7, 7, 8, 8], "pack_dataset no longer packs other columns; languages travel as one"


def test_the_collator_leaves_unknown_columns_alone() -> None:
    collator = DataCollatorForLanguageModeling(pad_token_id=0)
    batch = collator([{"input_ids": [1, 2], "labels": [1, 2], "language": "zh"}])
    assert set(batch) == {"input_ids", "labels", "attention_mask"}, "TRL's collator reads other columns now"


def test_the_fields_of_the_model_card() -> None:
    for name in ("_tag_names", "_name", "_paper"):
        assert hasattr(SFTTrainer, name), f"TRL's model card no longer reads {name}; SASFTTrainer fills it"
