"""The files of the first world: tokenizer, base model and SAEs, trained or unpacked from the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, Qwen3ForCausalLM

from ..shared.documents import RHYME, counting_rhyme, story
from ..shared.making import SHIPPED, train_world, unpack_world
from ..shared.model import ModelSize, Stage, copying_share, held_out_loss
from ..shared.plan import WorldPlan
from ..shared.saes import sae_folder, unexplained_variance
from .documents import NURSERY, WORLD

# First, many small steps on rhymes teach copying in a minute. Then the world's own text follows.
_STAGES = (Stage(NURSERY, row=RHYME, batch=32, steps=600), Stage(WORLD, row=64, batch=32, steps=1000))
PLAN = WorldPlan(ModelSize(), _STAGES, sae_steps=100, layers=(2,))
FILE = SHIPPED / "switching.safetensors"


@dataclass(frozen=True)
class World:
    """The paths of a world and its measurements."""

    base: Path
    saes: Path
    vocabulary: int
    parameters: int
    held_out_loss: float  # nats per token of raw text
    copies_rhymes: float  # share of rhymes (two periods of 2 to 6 tokens) that are continued with a third period
    copies_stories: float
    unexplained: dict[int, float]  # layer -> share of variance that its SAE does not explain


def build_world(folder: Path, *, plan: WorldPlan = PLAN, seed: int = 0, say: Callable[[str], None] = print) -> World:
    """Train the base model and its SAE, and save them in `folder`. It takes two minutes on one core."""
    train_world(folder, plan, seed=seed, say=say)
    return measure_world(folder, plan)


def open_world(folder: Path, *, file: Path = FILE, say: Callable[[str], None] = print) -> World:
    """Write the base model and the SAE that ship with the package to `folder`."""
    unpack_world(file, folder, PLAN, say=say)
    return measure_world(folder)


def measure_world(folder: Path, plan: WorldPlan = PLAN) -> World:
    """Measure the model and SAE in a folder that `build_world` or `open_world` wrote."""
    base = folder / "base"
    saes = sae_folder(folder, plan.d_sae, plan.k)
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    return World(
        base=base,
        saes=saes,
        vocabulary=len(tokenizer),
        parameters=model.num_parameters(),
        held_out_loss=held_out_loss(model, tokenizer, WORLD),
        copies_rhymes=copying_share(model, tokenizer, counting_rhyme),
        copies_stories=copying_share(model, tokenizer, story),
        unexplained=unexplained_variance(model, tokenizer, saes, plan.layers, WORLD),
    )
