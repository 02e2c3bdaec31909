"""The token term between languages of one script: token counts give each token a weight between 0 and 1."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_models import word_tokenizer
from torch import nn

from sae_posttrain.token_counts import TokenCounts, count_tokens

from .exactness import relative_error
from .routes import with_callback, with_trainer
from .world import Route, World, build_model

TEXTS = {"en": ["the house and the cat 7"] * 9, "de": ["das haus und die katze 7"] * 9, "zh": ["猫 房子 7"] * 9}
WEIGHT = 1.3


@pytest.fixture
def latin(tmp_path: Path) -> World:
    """Rows in English and German, with a word of the other in the second."""
    rows = [
        {"prompt": "the", "completion": " house and the cat", "language": "en"},
        {"prompt": "the", "completion": " haus and 7", "language": "en"},
        {"prompt": "das", "completion": " haus und 7 katze", "language": "de"},
        {"prompt": "猫", "completion": " 房子 猫", "language": "zh"},
    ]
    words = [text for texts in TEXTS.values() for text in texts]
    tokenizer = word_tokenizer(words, "<pad>", "<eos>")
    return World(tokenizer, None, Dataset.from_list(rows), tmp_path)  # type: ignore[arg-type]


def added(world: World, route: Route, counts: TokenCounts) -> dict[str, torch.Tensor]:
    """What the term adds to the gradient of one step."""
    moved = []
    for weight in (WEIGHT, 0.0):
        model = build_model(world.tokenizer)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        settings = {"token_weight": weight, "token_counts": counts, "per_device_train_batch_size": 4}
        trainer = world.run(route, suppress=["de"], weight=0.0, model=model, **settings)
        trainer.train()
        moved.append({name: before[name] - p.detach() for name, p in model.named_parameters()})
    return {name: moved[0][name] - moved[1][name] for name in moved[0]}


def by_hand(world: World, counts: TokenCounts) -> dict[str, torch.Tensor]:
    """From all logits; the label's own weight takes as much of its position. In Chinese answers the script decides."""
    model: nn.Module = build_model(world.tokenizer)
    latin_V = torch.zeros(len(world.tokenizer), dtype=torch.float64)
    latin_V[[index for word, index in world.tokenizer.get_vocab().items() if word.isascii() and word.isalpha()]] = 1
    member_of = {"en": counts.membership("de", "en").double(), "zh": latin_V}
    total, items = torch.zeros((), dtype=torch.float64), 0
    for row in world.dataset:
        prompt = world.tokenizer(row["prompt"])["input_ids"]
        ids = world.tokenizer(row["prompt"] + row["completion"])["input_ids"] + [world.tokenizer.eos_token_id]
        logits_SV = model(input_ids=torch.tensor([ids])).logits[0].double()
        for place in range(len(prompt) - 1, len(ids) - 1):
            items += 1
            member_V = member_of.get(row["language"])
            if member_V is None:
                continue
            mass = logits_SV[place].softmax(-1) @ member_V
            total = total - (1 - member_V[ids[place + 1]]) * (1 - mass).log()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(WEIGHT * total / items, parameters), strict=True))


@pytest.mark.parametrize("route", [with_callback, with_trainer])
def test_the_gradient_is_the_hand_written_one(route: Route, latin: World) -> None:
    counts = count_tokens(latin.tokenizer, {code: TEXTS[code] for code in ("en", "de")})
    assert relative_error(added(latin, route, counts), by_hand(latin, counts)) <= 1e-4


def test_answers_of_one_script_are_not_penalised_without_counts(latin: World) -> None:
    rows = latin.dataset.filter(lambda row: row["language"] != "zh")
    trainer = latin.run(with_callback, suppress=["de"], weight=0.0, dataset=rows, token_weight=1.0)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["sasft_token_penalised_share"] == 0
    assert log["sasft_token_shared_script_share"] > 0.3
