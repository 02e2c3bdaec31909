"""Train TopK SAEs of a model's residual stream with EleutherAI's sparsify."""

# S sequence, K dictionary size

from __future__ import annotations

import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

PRE_ACTIVATIONS = 2**28  # held at once, in numbers: 1 GB in float32


class PackedRows(IterableDataset):
    """Texts as they come, packed into rows of `length` tokens: at most `rows` of them, nothing kept in memory.

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
    batch_size: int = 32,
    max_length: int = 256,
    lr: float | None = None,
    seed: int = 0,
) -> Path:
    """Train one SAE on each block's output and save it at `layers.{n}` in `folder`, where `load_sae` reads it.

    Texts are read once, one after the other, until `tokens` have been seen or they end. With None, d_sae is 16 times
    the model's width, k an eighth of it between 8 and 50, and lr what sparsify takes for that d_sae.

    Raises: ValueError without the extra `train-sae`, for layers the model lacks, settings out of range, or texts too
    short for one batch; OSError where nothing can be written.
    """
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside or not layers:
        raise ValueError(f"Layers {list(layers)}: the model has blocks 0 to {depth - 1}.")
    if len(set(layers)) < len(layers):
        raise ValueError(f"Layers {list(layers)}: name each once.")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr={lr}: expected a number above 0, or None for sparsify's own.")
    if max_length < 2 or batch_size < 1 or tokens < batch_size * max_length:
        raise ValueError(f"tokens={tokens}: expected at least one batch, of {batch_size} rows of {max_length} tokens.")
    d_sae = 16 * width if d_sae is None else d_sae
    k = min(50, max(8, width // 8)) if k is None else k
    if not 1 <= k <= d_sae:
        raise ValueError(f"k={k} does not fit a dictionary of {d_sae} features.")
    first = next((one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None), None)
    if first is None:
        raise ValueError("The tokenizer has neither a beginning nor an end of text; rows begin with one of them.")
    rows = tokens // max_length // batch_size * batch_size
    dataset = PackedRows(texts, tokenizer, first, length=max_length, rows=rows)
    settings = {
        **{"batch_size": batch_size, "lr": lr, "exclude_tokens": [first], "save_every": 10**9},
        "micro_acc_steps": math.ceil(batch_size * max_length * d_sae / PRE_ACTIVATIONS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # there: what cannot be written is found out now
        trainer = fit_coders(model, dataset, scratch, layers=layers, d_sae=d_sae, k=k, seed=seed, **settings)
        if not trainer.global_step:
            raise ValueError(f"The texts are too short for one batch of {batch_size} rows of {max_length} tokens.")
        # The checkpoint, not the object: sparsify averages its weights when it saves them.
        for layer in layers:
            _keep(next(Path(scratch, "unnamed").glob(f"*layers.{layer}")), folder / f"layers.{layer}", model)
    return folder


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
    with redirect_stdout(io.StringIO()):  # sparsify says on stdout what it finds installed, and what it does
        try:
            from sparsify import SparseCoderConfig, TrainConfig, Trainer
        except ImportError as error:
            raise ValueError("SAEs are trained with sparsify: pip install 'sae-posttrain[train-sae]'") from error
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
    """sparsify freezes the model and changes the precision of matrix products; neither is ours to keep."""
    precision = torch.get_float32_matmul_precision()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for parameter in trained:
            parameter.requires_grad_(True)
