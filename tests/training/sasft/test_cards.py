"""A run's model card says how it was made, however it saves; and a trainer without `args` has its defaults."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig

from sae_posttrain import SASFTConfig, SASFTTrainer

from .world import World

OURS = {"sasft", "sae-posttrain"}
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def card_of(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


def trained(world: World, peft_config: Any = None, **settings: Any) -> SASFTTrainer:
    """A run of one step that was saved to its output folder, as `sae-posttrain sft` does."""
    args = SASFTConfig(**world.arguments(**{"suppress": ["zh"], **settings}))
    parts: dict[str, Any] = {"train_dataset": world.dataset, "processing_class": world.tokenizer}
    trainer = SASFTTrainer(world.make_model(), args, features=world.features, peft_config=peft_config, **parts)
    trainer.train()
    trainer.save_model(str(world.folder))
    return trainer


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "LoRA"])
@pytest.mark.parametrize("save", ["no", "steps"])
def test_the_card_names_the_method(save: str, peft_config: Any, world: World) -> None:
    trained(world, peft_config, save_strategy=save, save_steps=1)
    card = card_of(world.folder)
    assert set(card.data.tags) >= {"trl", "sft", *OURS}
    assert "This model was trained with SASFT" in card.text
    assert "2507.14894" in card.text
    if peft_config is not None:
        assert (card.data.library_name, "lora" in card.data.tags) == ("peft", True)


def test_an_adapters_checkpoint_has_the_card_too(world: World) -> None:
    trained(world, LORA, save_strategy="steps", save_steps=1)
    card = card_of(world.folder / "checkpoint-1")
    assert "This model was trained with SASFT" in card.text
    assert "More Information Needed" not in card.text, "PEFT's template"


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "LoRA"])
def test_a_run_of_weight_zero_is_plain_sft_to_its_card(peft_config: Any, world: World) -> None:
    trainer = trained(world, peft_config, sasft_weight=0.0, save_strategy="steps", save_steps=1)
    card = card_of(world.folder)
    assert not OURS & {*card.data.tags, *trainer.model.model_tags}
    assert "This model was trained with SFT." in card.text
    assert "SASFT" not in card.text


def test_a_trainer_without_args(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # TRL's default is bf16
    monkeypatch.chdir(world.folder)
    model = world.make_model()
    model.config._name_or_path = "owner/tiny"
    layers = tuple(layer.select(["zh"]) for layer in world.features.layers)
    parts: dict[str, Any] = {"train_dataset": world.dataset, "processing_class": world.tokenizer}
    trainer = SASFTTrainer(model, features=replace(world.features, layers=layers), **parts)
    assert trainer.args.output_dir == "tiny-SASFT"
    assert trainer.sasft.suppress == ("zh",)
    with pytest.raises(ValueError, match=r"the features belong to ru, zh\. Name the language"):
        SASFTTrainer(world.make_model(), features=world.features, **parts)
    with pytest.raises(ValueError, match="No features"):
        SASFTTrainer(world.make_model(), **parts)
