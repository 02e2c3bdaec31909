"""A small Qwen3, trained from nothing on the miniature world's raw text."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain.lab.documents import NURSERY, WORLD, Kind, documents, story
from sae_posttrain.lab.lexicon import LANGUAGES
from sae_posttrain.lab.tokenizer import END

# B batch, S sequence


@dataclass(frozen=True)
class ModelSize:
    """The shape of the lab's model and how long it is trained."""

    width: int = 96
    blocks: int = 3
    heads: int = 4
    head_width: int = 32
    row: int = 96  # tokens in a training row
    batch: int = 48  # rows in a step
    nursery_steps: int = 300
    steps: int = 500
    learning_rate: float = 3e-3


def token_rows(
    tokenizer: PreTrainedTokenizerBase, shares: Mapping[Kind, int], rows: int, row: int, seed: int
) -> torch.Tensor:
    """Documents one after another, cut into rows: int64 [rows, row]."""
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    for document in documents(shares, seed):
        # A loop would fill many rows: a row's worth of it is enough.
        ids += [vocabulary[token] for token in [*document[: 2 * row], END]]
        if len(ids) >= rows * row:
            return torch.tensor(ids[: rows * row]).view(rows, row)
    raise AssertionError("documents never end")


def train_model(tokenizer: PreTrainedTokenizerBase, size: ModelSize = ModelSize(), seed: int = 0) -> Qwen3ForCausalLM:
    """Train on raw text, next token by next token."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=3 * size.width,
            num_hidden_layers=size.blocks,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=size.head_width,
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    rows = torch.cat(
        [
            token_rows(tokenizer, NURSERY, size.nursery_steps * size.batch, size.row, seed),
            token_rows(tokenizer, WORLD, size.steps * size.batch, size.row, seed + 1),
        ]
    )
    total = size.nursery_steps + size.steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, size.learning_rate, total_steps=total, pct_start=0.1)
    progress = tqdm(rows.split(size.batch), desc="training the model", leave=False)
    for step, batch_BS in enumerate(progress):
        loss = model(input_ids=batch_BS, labels=batch_BS).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int = 10_000) -> float:
    """Nats per token on raw text of another seed."""
    rows = token_rows(tokenizer, WORLD, 256, 96, seed)
    return sum(model(input_ids=batch, labels=batch).loss.item() for batch in rows.split(64)) / 4


@torch.no_grad()
def copying_share(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, trials: int = 200, longest: int = 8, seed: int = 1
) -> float:
    """Share of stories whose last few tokens, shown twice, are greedily continued by a third time."""
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    copied = 0
    for _ in range(trials):
        tokens = story(rng, rng.choice(LANGUAGES))
        period = rng.randint(2, longest)
        tokens = tokens[: rng.randint(16, 40)]
        ids = [vocabulary[token] for token in tokens]
        ids += ids[-period:]
        shown = torch.tensor([ids])
        written = model.generate(shown, max_new_tokens=period, min_new_tokens=period, do_sample=False)
        copied += written[0, len(ids) :].tolist() == ids[-period:]
    return copied / trials
