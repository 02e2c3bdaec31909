"""Train a small Qwen3 model from scratch on the miniature world's raw text."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from ...bars import progress_bar
from .documents import Kind, Reading, documents, story
from .lexicon import END, LANGUAGES

# B batch, S sequence


@dataclass(frozen=True)
class ModelSize:
    """The shape of the lab's model."""

    width: int = 96
    blocks: int = 3
    heads: int = 4
    head_width: int = 32
    window: int | None = None  # tokens that the first block sees; a small window makes copying form at once


@dataclass(frozen=True)
class Stage:
    """One stage of training: the text, tokens per row, rows per step and number of steps."""

    reading: Reading
    row: int
    batch: int
    steps: int


def new_model(tokenizer: PreTrainedTokenizerBase, size: ModelSize) -> Qwen3ForCausalLM:
    """An untrained Qwen3 for the lab's vocabulary."""
    attention = {}
    if size.window is not None:
        blocks = ["sliding_attention"] + ["full_attention"] * (size.blocks - 1)
        attention = {"use_sliding_window": True, "sliding_window": size.window, "layer_types": blocks}
    return Qwen3ForCausalLM(
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
            **attention,
        )
    )


def train_model(
    tokenizer: PreTrainedTokenizerBase,
    size: ModelSize,
    stages: tuple[Stage, ...],
    *,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Qwen3ForCausalLM:
    """Train on raw text to predict the next token. The learning rate is constant, and falls to 0 in the last stage."""
    torch.manual_seed(seed)
    model = new_model(tokenizer, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    total = sum(stage.steps for stage in stages)
    falling = total - stages[-1].steps

    def pace(step: int) -> float:
        warm = min(1.0, (step + 1) / 40)
        return warm if step < falling else warm * (1 + math.cos(math.pi * (step - falling) / stages[-1].steps)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    with progress_bar(total=total, desc="training the model", leave=False) as progress:
        for number, stage in enumerate(stages):
            rows = token_rows(tokenizer, stage.reading, stage.steps * stage.batch, stage.row, seed + number)
            for batch_BS in rows.split(stage.batch):
                loss = model(input_ids=batch_BS, labels=batch_BS).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.update()
    return model.eval()


def token_rows(tokenizer: PreTrainedTokenizerBase, reading: Reading, rows: int, row: int, seed: int) -> torch.Tensor:
    """Concatenate documents and cut them into rows: int64 `(rows, row)`."""
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    for document in documents(reading, seed):
        if len(document) < row or reading.loops_end:
            # A loop is endless, so take only as much of it as fits into a row.
            ids += [vocabulary[token] for token in [*document[:row], END]]
        else:
            ids += [vocabulary[token] for token in document[: row - len(ids) % row]]
        if len(ids) >= rows * row:
            break
    return torch.tensor(ids[: rows * row]).view(rows, row)


@torch.no_grad()
def held_out_loss(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading,
    seed: int = 10_000,
) -> float:
    """The loss in nats per token on raw text of another seed."""
    rows = token_rows(tokenizer, reading, 256, 96, seed)
    losses = (float(model(input_ids=batch_BS, labels=batch_BS).loss) for batch_BS in rows.split(64))
    return sum(losses) / 4


@torch.no_grad()
def copying_share(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind = story,
    *,
    languages: Sequence[str] = LANGUAGES,
    trials: int = 200,
    longest: int = 6,
    seed: int = 1,
) -> float:
    """The share of cases in which the model, given a document's first 2 to `longest` tokens twice, repeats them."""
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    copied = shown = 0
    for period in range(2, longest + 1):
        openings = [kind(rng, rng.choice(languages))[:period] for _ in range(trials // (longest - 1))]
        period_BS = torch.tensor([[vocabulary[token] for token in opening] for opening in openings])
        twice_BS = period_BS.repeat(1, 2)
        written_BS = model.generate(
            twice_BS,
            attention_mask=torch.ones_like(twice_BS),
            max_new_tokens=period,
            min_new_tokens=period,
            do_sample=False,
        )
        copied += int((written_BS[:, 2 * period :] == period_BS).all(1).sum())
        shown += len(openings)
    return copied / shown
