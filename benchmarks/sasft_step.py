"""What SASFT adds to a step of SFT, in time and in memory, beside the published way of doing it.

    python benchmarks/sasft_step.py [--quick | --tokens | --device cuda]

Random Qwen3 models on one thread of the CPU, with plain SGD, so that what surrounds the model weighs as much as it can.
With `--device cuda`, the shapes of Qwen3-1.7B and 8B in bfloat16 on a GPU.
The ways take turns in one process. The published way is written from its description (arXiv:2507.14894): the whole
residual goes to float32, and the whole SAE of each layer stays in memory.

The token term is measured where the vocabulary is large, beside plain SFT on the same weights. Each batch holds one
row in each of four languages, one of them suppressed; three quarters of a row are its answer. So the term is computed
at 9 of 16 tokens, or at the given share of those.
"""

# B batch, S sequence, D model width, F selected features

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import _rows
import torch
from _models import SIZES, features, qwen3, tokenizer
from _sasft_cases import CASES, GPU_CASES, QUICK, TOKEN_CASES, Case
from _timing import MEGABYTE, Timing, Way, interleaved, table
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTConfig, SASFTTrainer
from sae_posttrain.residual import decoder_blocks

LANGUAGES, SUPPRESSED = ("en", "zh", "ru", "ko"), "zh"
WEIGHT = 1e-3
ALONE = "SASFT's part of that, alone"


def rows_of(case: Case) -> Dataset:
    """Rows in four languages: of one length; padded, of a quarter to all of it; packed, of less than half."""
    lengths = {
        "full": [case.length],
        "padded": [case.length * quarters // 4 - 1 for quarters in (4, 1, 2, 3)],
        "packed": [case.length // 2 - 1],  # an end marker comes behind each
    }[case.layout]
    rows = []
    for number in range(4 * case.rows * (2 if case.layout == "packed" else 1)):
        length = lengths[number % len(lengths)]
        words = [f"w{place + 1}" for place in range(length)]
        text = {"prompt": " ".join(words[: length // 4]), "completion": " " + " ".join(words[length // 4 :])}
        rows.append({**text, "language": LANGUAGES[number % 4]})
    return Dataset.from_list(rows)


def settings_of(case: Case, folder: str) -> dict[str, Any]:
    packing: dict[str, Any] = {"packing": True, "packing_strategy": "bfd"} if case.layout == "packed" else {}
    return {
        "output_dir": folder,
        "per_device_train_batch_size": case.rows,
        "max_length": case.length,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1e-6,
        "gradient_checkpointing": False,
        "bf16": False,  # the model has the case's dtype itself
        "use_cpu": case.device == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **packing,
    }


def model_of(case: Case) -> Any:
    return qwen3(case.size).to(case.device, getattr(torch, case.dtype))


def trainer_of(case: Case, folder: str, found: FeatureSet | None) -> Any:
    """SASFT with features, plain SFT without."""
    model = model_of(case)
    given: dict[str, Any] = {
        "train_dataset": rows_of(case) if found else rows_of(case).remove_columns("language"),
        "processing_class": tokenizer(SIZES[case.size][2]),
        "peft_config": LoraConfig(r=8, target_modules="all-linear") if case.lora else None,
    }
    settings = settings_of(case, folder)
    if found is None:
        return SFTTrainer(model, SFTConfig(**settings), **given)
    args = SASFTConfig(**settings, suppress=[SUPPRESSED], sasft_weight=WEIGHT)
    return SASFTTrainer(model, args, features=found, **given)


def step_of(trainer: Any) -> Way:
    """A whole step on one batch, after a run that set the trainer up."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if hasattr(trainer, "sasft"):
        trainer.sasft.start(trainer, trainer.model, trainer.state)
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)

    def step() -> None:
        trainer.training_step(trainer.model_wrapped, dict(batches[0]), items)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def part_of(trainer: Any) -> Way:
    """What SASFT does in a step, without the model: languages, loss, gradient to the residuals, and what is logged."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    engine, term = trainer.sasft, trainer.sasft.terms["features"]
    engine.start(trainer, trainer.model, trainer.state)
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    shape = (*batches[0]["input_ids"].shape, trainer.model.config.hidden_size)
    residuals = {
        one.layer: torch.randn(shape, dtype=trainer.model.dtype, device=trainer.model.device, requires_grad=True)
        for one in term.features.layers
    }

    def model_alone(model: Any, inputs: Any, **kwargs: Any) -> Tensor:
        passed = [term.read(layer, residual_BSD) for layer, residual_BSD in residuals.items()]
        return torch.stack([residual_BSD[0, 0, 0] for residual_BSD in passed]).sum()

    return lambda: engine.compute_loss(
        trainer, model_alone, trainer.model, dict(batches[0]), num_items_in_batch=items
    ).backward()


def as_published(case: Case, folder: str, found: FeatureSet) -> Way:
    """Plain SFT whose loss gains the term; labels are not shifted, and a batch divides by its own tokens."""
    trainer = trainer_of(case, folder, None)
    plain: Callable[..., Tensor] = trainer.compute_loss
    blocks = decoder_blocks(trainer.model)
    whole = (2, case.dictionary, SIZES[case.size][0])  # encoder and decoder
    saes = {one.layer: torch.randn(whole, device=case.device) for one in found.layers}
    baseline_BF = torch.zeros(case.rows, case.features, device=case.device)
    counts_B = (torch.arange(case.rows, device=case.device) % 4 != LANGUAGES.index(SUPPRESSED)).float()

    def compute_loss(model: Any, inputs: Any, **kwargs: Any) -> Tensor:
        kept: dict[int, Tensor] = {}
        handles = [
            blocks[layer].register_forward_hook(
                lambda module, args, output, layer=layer: kept.__setitem__(layer, output.float())
            )
            for layer in saes
        ]
        labelled_BS = inputs["labels"] != -100
        loss = plain(model, inputs, **kwargs)
        for handle in handles:
            handle.remove()
        total = torch.zeros((), device=case.device)
        for one in found.layers:
            pre_BSF = kept[one.layer] @ saes[one.layer][0][list(one.ids)].T
            excess_BSF = (pre_BSF - baseline_BF[:, None]).relu() * counts_B[:, None, None] * labelled_BS[..., None]
            total = total + excess_BSF.sum() / (labelled_BS.sum() * case.features + 1)
        return loss + WEIGHT * total

    trainer.compute_loss = compute_loss
    return step_of(trainer)


def tokens_part_of(trainer: Any) -> Way:
    """What the token term does in a step, without the model, from the hidden states to the gradients of the head."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    engine, term = trainer.sasft, trainer.sasft.terms["tokens"]
    engine.start(trainer, trainer.model, trainer.state)
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    shape = (*batches[0]["input_ids"].shape, trainer.model.config.hidden_size)
    hidden_BSD = torch.randn(shape, dtype=trainer.model.dtype, device=trainer.model.device, requires_grad=True)

    def model_alone(model: Any, inputs: Any, **kwargs: Any) -> Tensor:
        passed_BSD: Tensor = term.read(hidden_BSD)
        return passed_BSD[0, 0, 0]

    return lambda: engine.compute_loss(
        trainer, model_alone, trainer.model, dict(batches[0]), num_items_in_batch=items
    ).backward()


def measured_tokens(case: Case) -> list[Timing]:
    """Plain SFT, twice, and the token term at each share, on the weights of one model."""
    words = tokenizer(SIZES[case.size][2], "猫")
    model = model_of(case)
    with TemporaryDirectory() as folder:
        settings = settings_of(case, folder) | {"train_sampling_strategy": "sequential", "shuffle_dataset": False}

        def trainer(share: float | None) -> Any:
            given: dict[str, Any] = {"train_dataset": rows_of(case), "processing_class": words}
            if share is None:
                return SFTTrainer(model, SFTConfig(**settings), **given)
            args = SASFTConfig(**settings, suppress=[SUPPRESSED], sasft_weight=0, token_weight=1, token_share=share)
            return SASFTTrainer(model, args, **given)

        ways = {"plain SFT": step_of(trainer(None)), "plain SFT, a second one": step_of(trainer(None))}
        for share in case.shares:
            ways[f"tokens, share {share:g}"] = step_of(trainer(share))
            ways[f"tokens, share {share:g}: the term's part of that, alone"] = tokens_part_of(trainer(share))
        timings = interleaved("SFT step", ways, size=str(case), memory=True, **taken_as(case))
    # The part alone adds to gradients that in a step are the model's.
    return [replace(one, peak_memory=None) if one.variant.endswith("alone") else one for one in timings]


def taken_as(case: Case) -> dict[str, Any]:
    return {"rounds": case.rounds, "dtype": case.dtype, "device": case.device}


def measured(case: Case) -> list[Timing]:
    if case.shares:
        return measured_tokens(case)
    width, blocks, _ = SIZES[case.size]
    last = range(blocks - case.layers, blocks)
    found = features(width, blocks, last, case.features, SUPPRESSED, LANGUAGES)
    with TemporaryDirectory() as folder:
        ways = {
            "plain SFT": step_of(trainer_of(case, folder, None)),
            "plain SFT, a second one": step_of(trainer_of(case, folder, None)),
            "SASFT": step_of(trainer_of(case, folder, found)),
            ALONE: part_of(trainer_of(case, folder, found)),
        }
        if case.layout != "packed":  # it reads one language per row
            ways["as published"] = as_published(case, folder, found)
        timings = interleaved("SFT step", ways, size=str(case), memory=True, **taken_as(case))
    resident = {
        "SASFT": sum(one.encoder.nbytes + one.bias.nbytes for one in found.layers) / MEGABYTE,
        "as published": case.layers * 2 * case.dictionary * width * 4 / MEGABYTE,
    }
    peaks = {one.variant: round((one.peak_memory or 0) + resident.get(one.variant, 0), 2) for one in timings}
    del peaks[ALONE]  # it holds its residuals and their gradients, which in a step are the model's
    return [replace(one, peak_memory=peaks.get(one.variant)) for one in timings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cases; writes no file")
    parser.add_argument("--tokens", action="store_true", help="only the cases of the token term")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: writes a file of its own")
    args = parser.parse_args()
    files = {"sasft_step": [] if args.tokens else CASES, "sasft_step_tokens": TOKEN_CASES}
    if args.device == "cuda":
        if not torch.cuda.is_available():
            parser.error("There is no GPU that torch can use; leave out --device cuda.")
        files = {"sasft_step_cuda": GPU_CASES}
    torch.set_num_threads(1)
    for name, cases in {"": QUICK}.items() if args.quick else files.items():
        timings: list[Timing] = []
        for case in cases:
            timings += measured(case)
            if name:  # after each, since all of them take an hour
                _rows.write(name, timings)
        print(table(timings))


if __name__ == "__main__":
    main()
