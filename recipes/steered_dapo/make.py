"""Make the recipe's model from real text: a small Qwen3 that can copy and rarely loops, and SAEs of its middle blocks.

python recipes/steered_dapo/make.py --text CORPUS/en.jsonl.gz --output_dir runs/looper
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentences import PATTERNS, build_tokenizer, load_sentences, mixed, pattern, rows_of, told  # type: ignore[import-not-found]
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain.lab.shared.saes import qwen_scope_layout
from sae_posttrain.sampling import SamplingSettings, sample_responses

# B batch, R rows, S sequence

NURSERY_ROW, ROW = 32, 96


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train everything into output_dir; returns what was measured of it, which is also in made.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", required=True, help="a file of texts, such as en.jsonl.gz")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--vocabulary", type=int, default=400)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--nursery_steps", type=int, default=250, help="steps of 48 rows of random patterns")
    parser.add_argument("--steps", type=int, default=1000, help="steps of 16 rows of text")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2], help="blocks that get an SAE")
    parser.add_argument("--d_sae", type=int, default=384)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--sae_steps", type=int, default=100, help="steps of 32 rows of text")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    started, output = time.process_time(), Path(args.output_dir)

    train, held_out = load_sentences(args.text)
    tokenizer = build_tokenizer(train, args.vocabulary)
    text, nursery = told(tokenizer, train), pattern(tokenizer)
    model = train_model(tokenizer, args, text, nursery)
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")

    rows = rows_of(mixed(random.Random(args.seed + 2), text, nursery, PATTERNS), 32 * args.sae_steps, ROW)
    saes = output / f"SAE-Res-looper-W{args.d_sae}-L0_{args.k}"
    saes.mkdir(parents=True, exist_ok=True)
    for layer, weights in train_autoencoders(model, rows, args).items():
        torch.save(weights, saes / f"layer{layer}.sae.pt")

    made = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "sentences": len(train),
        "held_out_loss": held_out_loss(model, tokenizer, held_out),
        "copies_patterns": copying_share(model, tokenizer, lambda rng, period: nursery(rng)[:period]),
        "copies_text": copying_share(model, tokenizer, phrase_of(tokenizer, held_out)),
        "cpu_seconds": round(time.process_time() - started),
        **vars(args),
    }
    (output / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made))
    return made


def train_model(
    tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace, text: Any, nursery: Any
) -> Qwen3ForCausalLM:
    """Patterns first, since copying forms at once there and hardly at all in text; then text."""
    torch.manual_seed(args.seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=args.width,
            intermediate_size=3 * args.width,
            num_hidden_layers=args.blocks,
            num_attention_heads=args.heads,
            num_key_value_heads=args.heads,
            head_dim=32,
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            # The first block sees a token and the one before, which is half of what copying takes.
            use_sliding_window=True,
            sliding_window=2,
            layer_types=["sliding_attention"] + ["full_attention"] * (args.blocks - 1),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    documents = mixed(random.Random(args.seed), text, nursery, PATTERNS)
    patterns = mixed(random.Random(args.seed + 1), nursery, nursery, 0)
    batches = [*rows_of(patterns, 48 * args.nursery_steps, NURSERY_ROW).split(48)]
    batches += rows_of(documents, 16 * args.steps, ROW).split(16)

    def pace(step: int) -> float:
        done = max(0, step - args.nursery_steps) / max(1, args.steps)
        return min(1.0, (step + 1) / 40) * (1 + math.cos(math.pi * done)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    for step, batch_BS in enumerate(batches):
        loss = model(input_ids=batch_BS, labels=batch_BS).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {len(batches)}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def train_autoencoders(
    model: Qwen3ForCausalLM, rows_RS: Tensor, args: argparse.Namespace
) -> dict[int, dict[str, Tensor]]:
    """One TopK SAE for each layer's output, trained with sparsify, in Qwen-Scope's layout."""
    with redirect_stdout(io.StringIO()):  # sparsify says on stdout what it finds installed
        from sparsify import SparseCoderConfig, TrainConfig, Trainer

    precision = torch.get_float32_matmul_precision()
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
        config = TrainConfig(
            SparseCoderConfig(num_latents=args.d_sae, k=args.k),
            batch_size=32,
            layers=args.layers,
            init_seeds=[args.seed],
            log_to_wandb=False,
            save_dir=scratch,
        )
        trainer = Trainer(config, Dataset.from_dict({"input_ids": rows_RS}).with_format("torch"), model)
        trainer.fit()
    torch.set_float32_matmul_precision(precision)  # sparsify lowers it for good
    return {layer: qwen_scope_layout(trainer.saes[f"layers.{layer}"]) for layer in args.layers}


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> float:
    """Nats per token of held-out text as the model was trained on, without patterns."""
    text = told(tokenizer, sentences)
    rows_RS = rows_of(mixed(random.Random(0), text, text, 0), 128, ROW)
    return float(model(input_ids=rows_RS, labels=rows_RS).loss)


def phrase_of(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> Any:
    """The tokens from somewhere in a held-out sentence."""
    ids = [row for row in tokenizer(list(sentences))["input_ids"] if len(row) > 10]

    def draw(rng: random.Random, period: int) -> list[int]:
        row = rng.choice(ids)
        start = rng.randint(1, len(row) - period)
        turn: list[int] = row[start : start + period]
        return turn

    return draw


@torch.no_grad()
def copying_share(model: Qwen3ForCausalLM, tokenizer: Any, draw: Any, *, trials: int = 40, longest: int = 6) -> float:
    """Given two periods of 2 to `longest` tokens, how often the model greedily writes a third."""
    rng, copied = random.Random(1), 0
    for period in range(2, longest + 1):
        period_BS = torch.tensor([draw(rng, period) for _ in range(trials)])
        twice_BS = period_BS.repeat(1, 2)
        greedy = SamplingSettings(0.0, top_p=1.0, max_new_tokens=period)
        written = sample_responses(model, tokenizer, twice_BS.tolist(), greedy, batch_size=trials, progress=False)
        copied += sum(list(one.ids) == wanted for (one,), wanted in zip(written, period_BS.tolist(), strict=True))
    return copied / (trials * (longest - 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
