"""Write a world's base model and SAEs: train them, or unpack them from the file that ships with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from .model import new_model, token_rows, train_model
from .plan import WorldPlan
from .saes import read_saes, sae_folder, train_lab_saes, write_saes
from .tokenizer import build_tokenizer

SHIPPED = Path(__file__).parents[1] / "shipped"
"""One file for each world. `python -m sae_posttrain.lab.ship` makes them."""


def train_world(folder: Path, plan: WorldPlan, *, seed: int = 0, say: Callable[[str], None] = print) -> None:
    """Train a base model and its SAEs, and save them in `folder` as `base` and `SAE-Res-lab-…`.

    Raises: ValueError: the extra `train-sae` is not installed.
    """
    tokenizer = build_tokenizer()
    model = train_model(tokenizer, plan.size, plan.stages, learning_rate=plan.learning_rate, seed=seed)
    _save_base(model, tokenizer, folder, say)
    saes = train_lab_saes(
        model,
        tokenizer,
        folder,
        layers=plan.layers,
        reading=plan.reading,
        d_sae=plan.d_sae,
        k=plan.k,
        steps=plan.sae_steps,
        seed=seed,
    )
    say(f"  saved SAEs of layers {', '.join(map(str, plan.layers))} in {saes}")


def unpack_world(file: Path, folder: Path, plan: WorldPlan, *, say: Callable[[str], None] = print) -> None:
    """Write a shipped world to `folder`, in the same files and formats as `train_world`.

    Raises: ValueError: the file belongs to another plan, vocabulary or text.
    """
    tokenizer = build_tokenizer()
    with safe_open(file, "pt") as shipped:
        made_with = (shipped.metadata() or {}).get("recipe")
        if made_with != recipe_of(plan, tokenizer):
            raise ValueError(
                f"{file} was made with another plan, vocabulary or text than the lab now has. Make it again with "
                "`python -m sae_posttrain.lab.ship`."
            )
        tensors = {name: shipped.get_tensor(name).float() for name in shipped.keys()}  # noqa: SIM118
    model = new_model(tokenizer, plan.size)
    weights = _part(tensors, "model.")
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})  # they are tied
    _save_base(model, tokenizer, folder, say)
    by_layer = {layer: _part(tensors, f"sae.{layer}.") for layer in plan.layers}
    saes = write_saes(sae_folder(folder, plan.d_sae, plan.k), by_layer)
    say(f"  unpacked SAEs of layers {', '.join(map(str, plan.layers))} in {saes}")


def ship_world(folder: Path, file: Path, plan: WorldPlan, *, made: Mapping[str, str]) -> None:
    """Write the files of `train_world` as one file, in half precision. `made` records versions and hardware."""
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(folder / "base"), AutoTokenizer.from_pretrained(folder / "base")
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for layer, weights in read_saes(sae_folder(folder, plan.d_sae, plan.k), plan.layers).items():
        tensors |= {f"sae.{layer}.{name}": tensor for name, tensor in weights.items()}
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, file, metadata={"recipe": recipe_of(plan, tokenizer), **made})


def recipe_of(plan: WorldPlan, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that determines the trained weights: sizes, settings, vocabulary and first rows of text."""
    lengths = [(stage.row, stage.batch, stage.steps) for stage in plan.stages]
    settings = (astuple(plan.size), lengths, plan.sae_steps, plan.layers, plan.learning_rate, plan.d_sae, plan.k)
    digest = hashlib.sha256(repr((settings, sorted(tokenizer.get_vocab().items()))).encode())
    for stage in plan.stages:
        digest.update(token_rows(tokenizer, stage.reading, 256, stage.row, seed=0).numpy().tobytes())
    return digest.hexdigest()


def _save_base(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, say: Callable[[str], None]
) -> None:
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    say(f"  saved a Qwen3 of {model.num_parameters() / 1e6:.2f} M parameters and {len(tokenizer)} symbols in {base}")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
