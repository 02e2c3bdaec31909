"""A steered run's model card says so, however it saves; and a trainer without `args` has its defaults."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from sae_posttrain.training.rollouts import SteeredGRPOTrainer, SteeredRLOOTrainer

from .world import ALPHA, dataset, features, lora, model, steered, steered_rloo, tokenizer, trained, varied

OURS = {"steered-rollouts", "sae-posttrain"}


def card_of(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("peft_config", [None, lora()], ids=["full", "LoRA"])
def test_the_card_names_the_method(peft_config: Any, tmp_path: Path) -> None:
    made = trained(steered(tmp_path, peft_config=peft_config, save_strategy="no"))
    made.save_model()
    card = card_of(tmp_path)
    assert set(card.data.tags) >= {"trl", "grpo", *OURS}
    assert "This model was trained with GRPO with steered rollouts" in card.text
    assert "2605.11887" in card.text


def test_so_does_that_of_rloo(tmp_path: Path) -> None:
    steered_rloo(tmp_path).save_model()
    assert "This model was trained with RLOO with steered rollouts" in card_of(tmp_path).text


def test_a_run_that_steers_nothing_is_plain_grpo_to_its_card(tmp_path: Path) -> None:
    made = steered(tmp_path, peft_config=lora(), steered_per_group=0)
    made.save_model()
    card = card_of(tmp_path)
    assert not OURS & {*card.data.tags, *made.model.model_tags}
    assert "This model was trained with GRPO, a method introduced in [DeepSeekMath" in card.text


@pytest.mark.parametrize(
    ("kind", "folder"), [(SteeredGRPOTrainer, "tiny-SteeredGRPO"), (SteeredRLOOTrainer, "tiny-SteeredRLOO")]
)
def test_a_trainer_without_args(kind: Any, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # TRL's default is bf16
    monkeypatch.chdir(tmp_path)
    named = model()
    named.config._name_or_path = "owner/tiny"
    parts: dict[str, Any] = {"train_dataset": dataset(), "processing_class": tokenizer(), "peft_config": lora()}
    made = kind(named, varied, features=replace(features(), alpha=ALPHA), **parts)
    assert made.args.output_dir == folder
    assert made.source.alpha == ALPHA
    with pytest.raises(ValueError, match="No features"):
        kind(model(), varied, **parts)
