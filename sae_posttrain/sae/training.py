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

    Every row begins with the token `first`. It is the attention sink, and is left out of the SAE's training.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, first: int, *, length: int, rows: int
    ) -> None:
        self.texts, self.tokenizer, self.first, self.length, self.rows = texts, tokenizer, first, length, rows

    def __len__(self) -> int:  # sparsify needs it for its progress bar
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

    Texts are read once, in order, until `tokens` tokens have been read or the texts end. The first 33 million tokens
    are read before the training, so that its length is known.

    Args:
        model: a transformers model, or only its decoder, which is faster.
        tokenizer: the model's tokenizer.
        texts: as many as possible, and similar to those that the SAE will be used on.
        folder: where the SAEs are written.
        layers: 0-based decoder blocks.
        d_sae: number of features. Default: 16 times the model's width, fewer if the texts are short.
        k: active features per token. Default: an eighth of the model's width, between 8 and 50.
        tokens: largest number of tokens to read.
        batch_size: rows per step. Default: 32, fewer if the texts are too short for 250 steps.
        max_length: tokens per row. Default: 256, or the model's context length if that is smaller.
        lr: learning rate. Default: sparsify's default for this number of features.
        seed: random seed of the initial weights.
        say: called with messages: before the training, what is trained and how long it will take; afterwards, whether
            the texts ended early.

    Returns:
        The folder.

    Raises:
        ValueError: the extra `train-sae` is not installed, the model does not have a layer, a setting is out of range,
            or the texts are too short for one batch.
        OSError: the folder cannot be written to.

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
            "The tokenizer has neither a beginning-of-sequence nor an end-of-sequence token, and every row must begin "
            "with one of them. Set one in the tokenizer."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # fails before the training if nothing can be written
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
            raise ValueError(f"k={plan.k} is larger than the number of features, {plan.d_sae}. Choose a smaller k.")
        if not plan.steps:
            raise ValueError(
                f"The texts are too short for one batch of {plan.batch_size} rows of {max_length} tokens. Give more."
            )
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
        # Keep the checkpoint, not the trained object: sparsify averages the weights when it saves them.
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
    """Check the settings of `train_saes`.

    Raises:
        ValueError: the model does not have a layer, or a setting is out of range.
    """
    depth = config.num_hidden_layers
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside or not layers:
        raise ValueError(f"Layers {list(layers)}: expected at least one of the model's blocks 0 to {depth - 1}.")
    if len(set(layers)) < len(layers):
        raise ValueError(f"Layers {list(layers)}: name each layer only once.")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr={lr}: expected a number above 0, or None for sparsify's default.")
    least = 1 if batch_size is None else batch_size
    if max_length < 2 or least < 1 or tokens < least * max_length:
        raise ValueError(
            f"tokens={tokens}, batch_size={least}, max_length={max_length}: expected at least one batch, of rows of at "
            "least 2 tokens."
        )
    if (d_sae is not None and (d_sae < 1 or (k is not None and k > d_sae))) or (k is not None and k < 1):
        raise ValueError(f"k={k}, d_sae={d_sae}: expected at least 1, and k no larger than d_sae.")


def _ending(plan: TrainingPlan, asked: int, exact: bool) -> str:
    """A sentence for the case that the texts end before the requested number of tokens; else empty."""
    if not exact:
        return f" It ends earlier if the texts end earlier; only the first {READ_AHEAD:,} tokens were read ahead."
    if asked - plan.tokens >= plan.batch_size * plan.max_length:
        return f" The texts have no more tokens; {asked:,} were requested."
    return ""


def new_coder(model: Any, plan: TrainingPlan) -> Any:
    """Make one of sparsify's coders, to measure the time of a step.

    Raises:
        ValueError: the extra `train-sae` is not installed.
    """
    SparseCoder, SparseCoderConfig = _sparsify("SparseCoder", "SparseCoderConfig")
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        return SparseCoder(
            model.config.hidden_size, SparseCoderConfig(num_latents=plan.d_sae, k=plan.k), device, torch.float32
        )


def _sparsify(*names: str) -> tuple[Any, ...]:
    with redirect_stdout(io.StringIO()):  # sparsify prints which libraries it finds
        try:
            import sparsify
        except ImportError as error:
            raise ValueError(
                "Training SAEs needs sparsify, which is not installed: pip install 'sae-posttrain[train-sae]'."
            ) from error
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
    """Train with sparsify, and return its trainer. The model is not changed.

    Args:
        model: a transformers model, or only its decoder.
        dataset: rows of token ids.
        scratch: the folder that sparsify saves to.
        layers: 0-based decoder blocks.
        d_sae: number of features.
        k: active features per token.
        seed: random seed of the initial weights.
        settings: further settings of sparsify's `TrainConfig`.

    Raises:
        ValueError: the extra `train-sae` is not installed.
    """
    SparseCoderConfig, TrainConfig, Trainer = _sparsify("SparseCoderConfig", "TrainConfig", "Trainer")
    with redirect_stdout(io.StringIO()):  # sparsify prints its progress
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
    """Move one SAE to its final folder, and add the model's name to its settings, which sparsify ignores."""
    settings = json.loads((trained / "cfg.json").read_text(encoding="utf-8"))
    settings["model"] = getattr(model.config, "_name_or_path", "")
    (trained / "cfg.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("cfg.json", "sae.safetensors"):
        shutil.move(trained / name, target / name)


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Undo two changes of sparsify: it freezes the model, and sets the precision of matrix products."""
    precision = torch.get_float32_matmul_precision()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for parameter in trained:
            parameter.requires_grad_(True)
