"""Train TopK SAEs of a model's residual stream with EleutherAI's sparsify."""

# S sequence, K dictionary size

from __future__ import annotations

import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from ..wording import duration
from .planning import READ_AHEAD, ReadRows, TrainingPlan, plan_training, seconds_per_step


class PackedRows(IterableDataset[dict[str, Tensor]]):
    """A stream of texts, packed into at most `rows` rows of `length` tokens. Nothing is kept in memory.

    Every row begins with `first`, which takes the attention sink that no SAE should spend itself on.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, first: int, *, length: int, rows: int
    ) -> None:
        self.texts, self.tokenizer, self.first, self.length, self.rows = texts, tokenizer, first, length, rows

    def __len__(self) -> int:  # sparsify asks, for its progress bar
        return self.rows

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        pending: list[int] = []
        given = 0
        for text in self.texts:
            pending += [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.first]
            while len(pending) >= self.length - 1:
                if given == self.rows:
                    return
                yield {"input_ids": torch.tensor([self.first, *pending[: self.length - 1]])}
                given += 1
                del pending[: self.length - 1]


def train_saes(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    folder: Path,
    *,
    layers: Sequence[int],
    d_sae: int | None = None,
    k: int | None = None,
    tokens: int = 20_000_000,
    batch_size: int | None = None,
    max_length: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train one SAE on each block's output and save it at `layers.{n}` in `folder`, where `load_sae` reads it.

    Texts are read once, one after the other, until `tokens` have been read or they end; the first 33 million tokens are
    read before the training, so that its length is known.

    Args:
        model: a transformers model, or its decoder alone, which is faster.
        tokenizer: the model's.
        texts: as many as possible, and similar to those that the SAE will be used on.
        folder: where the SAEs are written.
        layers: 0-based decoder blocks.
        d_sae: number of features. Default: 16 times the model's width, fewer if the texts are short.
        k: active features per token. Default: an eighth of the model's width, between 8 and 50.
        tokens: largest number of tokens to read.
        batch_size: rows per step. Default: 32, fewer if the texts are too short for 250 steps.
        max_length: tokens per row. Default: 256, or the model's context length if that is smaller.
        lr: learning rate. Default: sparsify's for that number of features.
        seed: random seed of the initial weights.
        say: function that is called with messages: before the training, what is trained and how long it takes; after
            it, where the texts ended.

    Returns:
        The folder.

    Raises:
        ValueError: without the extra `train-sae`, for layers the model lacks, settings out of range, or texts too
            short for one batch.
        OSError: nothing can be written.

    Example:
        >>> train_saes(model, tokenizer, texts, Path("saes"), layers=[2], tokens=100_000, say=print)
    """
    say = say or (lambda text: None)
    if max_length is None:
        max_length = min(256, getattr(model.config, "max_position_embeddings", None) or 256)
    check_training(
        model.config, layers, d_sae=d_sae, k=k, tokens=tokens, batch_size=batch_size, max_length=max_length, lr=lr
    )
    first = next((one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None), None)
    if first is None:
        raise ValueError(
            "The tokenizer has neither a beginning-of-sequence nor an end-of-sequence token; every row begins with one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # there: what cannot be written is found out now
        most = tokens // max_length
        dataset = ReadRows(iter(PackedRows(texts, tokenizer, first, length=max_length, rows=most)), most, max_length)
        plan = plan_training(
            model.config.hidden_size,
            layers,
            len(dataset),
            max_length=max_length,
            d_sae=d_sae,
            k=k,
            batch_size=batch_size,
        )
        if plan.k > plan.d_sae:
            raise ValueError(f"k={plan.k} is larger than the number of features, {plan.d_sae}.")
        if not plan.steps:
            raise ValueError(f"The texts are too short for one batch of {plan.batch_size} rows of {max_length} tokens.")
        dataset.count = plan.steps * plan.batch_size
        say(f"{plan}{_ending(plan, tokens, dataset.exact)}")
        coder = new_coder(model, plan)
        say(f"It will take about {duration(plan.steps * seconds_per_step(model, plan, dataset.ahead, coder))}.")
        del coder
        settings = {
            **{"batch_size": plan.batch_size, "lr": lr, "exclude_tokens": [first], "save_every": 10**9},
            "micro_acc_steps": plan.micro_steps,
        }
        trainer = fit_coders(model, dataset, scratch, layers=layers, d_sae=plan.d_sae, k=plan.k, seed=seed, **settings)
        if trainer.global_step < plan.steps:
            say(f"The texts ended after {trainer.global_step:,} of {plan.steps:,} steps.")
        # The checkpoint, not the object: sparsify averages its weights when it saves them.
        for layer in layers:
            _keep(next(Path(scratch, "unnamed").glob(f"*layers.{layer}")), folder / f"layers.{layer}", model)
    return folder


def check_training(
    config: Any,
    layers: Sequence[int],
    *,
    d_sae: int | None,
    k: int | None,
    tokens: int,
    batch_size: int | None,
    max_length: int,
    lr: float | None,
) -> None:
    """Raises: ValueError for layers the model lacks, or a setting out of range."""
    depth = config.num_hidden_layers
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside or not layers:
        raise ValueError(f"Layers {list(layers)}: the model has blocks 0 to {depth - 1}.")
    if len(set(layers)) < len(layers):
        raise ValueError(f"Layers {list(layers)}: name each once.")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr={lr}: expected a number above 0, or None for sparsify's own.")
    least = 1 if batch_size is None else batch_size
    if max_length < 2 or least < 1 or tokens < least * max_length:
        raise ValueError(f"tokens={tokens}: expected at least one batch, of {least} rows of {max_length} tokens.")
    if (d_sae is not None and (d_sae < 1 or (k is not None and k > d_sae))) or (k is not None and k < 1):
        raise ValueError(f"k={k} does not fit a dictionary of {d_sae} features.")


def _ending(plan: TrainingPlan, asked: int, exact: bool) -> str:
    """Where the texts, and not the number of tokens that were asked for, set the end."""
    if not exact:
        return f" It ends earlier if the texts end earlier; only the first {READ_AHEAD:,} tokens were read ahead."
    if asked - plan.tokens >= plan.batch_size * plan.max_length:
        return f" The texts hold no more tokens; {asked:,} were asked for."
    return ""


def new_coder(model: Any, plan: TrainingPlan) -> Any:
    """One of sparsify's coders, to time. Raises: ValueError without the extra `train-sae`."""
    SparseCoder, SparseCoderConfig = _sparsify("SparseCoder", "SparseCoderConfig")
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        return SparseCoder(
            model.config.hidden_size, SparseCoderConfig(num_latents=plan.d_sae, k=plan.k), device, torch.float32
        )


def _sparsify(*names: str) -> tuple[Any, ...]:
    with redirect_stdout(io.StringIO()):  # sparsify says on stdout what it finds installed
        try:
            import sparsify
        except ImportError as error:
            raise ValueError("SAEs are trained with sparsify: pip install 'sae-posttrain[train-sae]'.") from error
    return tuple(getattr(sparsify, name) for name in names)


def fit_coders(
    model: nn.Module,
    dataset: Any,
    scratch: str,
    *,
    layers: Sequence[int],
    d_sae: int,
    k: int,
    seed: int,
    **settings: Any,
) -> Any:
    """sparsify's trainer, when it is done; the model is left as it was found.

    Raises: ValueError without the extra `train-sae`.
    """
    SparseCoderConfig, TrainConfig, Trainer = _sparsify("SparseCoderConfig", "TrainConfig", "Trainer")
    with redirect_stdout(io.StringIO()):  # sparsify says on stdout what it does
        config = TrainConfig(
            SparseCoderConfig(num_latents=d_sae, k=k),
            layers=list(layers),
            init_seeds=[seed],
            log_to_wandb=False,
            save_dir=scratch,
            **settings,
        )
        with _left_as_found(model):
            trainer = Trainer(config, dataset, model)
            trainer.fit()
    return trainer


def _keep(trained: Path, target: Path, model: Any) -> None:
    """Move one SAE to where it stays, with the name of its model among the settings; sparsify reads over that."""
    settings = json.loads((trained / "cfg.json").read_text(encoding="utf-8"))
    settings["model"] = getattr(model.config, "_name_or_path", "")
    (trained / "cfg.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("cfg.json", "sae.safetensors"):
        shutil.move(trained / name, target / name)


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Restore what sparsify changes: it freezes the model and sets the precision of matrix products."""
    precision = torch.get_float32_matmul_precision()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for parameter in trained:
            parameter.requires_grad_(True)
