"""The whole way on every architecture: features from a model and its SAEs, a step of SASFT, steered generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from published_saes import ACTIVE
from tiny_models import MODELS, WIDTH, make, word_tokenizer, write_saes
from torch import Tensor

from sae_posttrain import FeatureSet, SASFTConfig, SASFTTrainer, discover_language_features, steer

WORDS = {
    "en": "the cat sees a small house and sings today",
    "zh": "猫 看见 一个 小 房子 并且 今天 唱歌",
    "ru": "кошка видит маленький дом и поёт сегодня там",
}
LAYERS, LEARNING_RATE = [1, 3], 0.1
ARCHITECTURES = [name for name in MODELS if name not in ("Qwen3Model", "Qwen3_5MoeForConditionalGeneration")]


def texts(code: str) -> list[str]:
    words = WORDS[code].split()
    return [" ".join(words[(start + 2 * step) % len(words)] for step in range(6)) for start in range(4)]


def step(model: Any, tokenizer: Any, features: FeatureSet, weight: float, folder: Path) -> tuple[Tensor, float]:
    """Take one step on English text; all weights after it, and the auxiliary loss."""
    rows = [{"text": text, "language": "en"} for text in texts("en")]
    settings: dict[str, Any] = {
        **{"output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": LEARNING_RATE},
        **{"optim": "sgd", "max_grad_norm": 0.0, "use_cpu": True, "bf16": False, "gradient_checkpointing": False},
        **{"report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True},
    }
    trainer = SASFTTrainer(
        model,
        args=SASFTConfig(**settings, suppress=["zh"], sasft_weight=weight),
        features=features,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    weights = torch.cat([one.detach().flatten() for one in trainer.model.parameters()])
    return weights, next(log["sasft_loss"] for log in trainer.state.log_history if "sasft_loss" in log)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_discover_train_and_steer(name: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS.values(), "<pad>", "<end>")
    saes = write_saes(tmp_path / f"SAE-Res-tiny-L0_{ACTIVE}", LAYERS, 4 * WIDTH, WIDTH)
    languages = {code: texts(code) for code in WORDS}
    found = discover_language_features(make(name), tokenizer, saes, languages, layers=LAYERS, top=2, progress=False)
    features = FeatureSet.load(found.save(tmp_path / "features.safetensors"))
    assert [layer.layer for layer in features.layers] == LAYERS
    assert all("zh" in layer.targets for layer in features.layers)

    with_loss, auxiliary = step(make(name), tokenizer, features, 1.0, tmp_path)
    without, _ = step(make(name), tokenizer, features, 0.0, tmp_path)
    assert auxiliary > 0
    assert torch.isfinite(with_loss).all()
    assert not torch.equal(with_loss, without)

    model = make(name)
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts("en")[:2]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, **settings)
    with steer(model, features, alpha=50.0, rows=[True, False]):
        steered = model.generate(ids, **settings)
    assert not torch.equal(steered[0], plain[0])
    assert torch.equal(steered[1], plain[1])
