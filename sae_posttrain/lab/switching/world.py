"""A whole miniature world on disk: tokenizer, base model and SAEs, made from nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, Qwen3ForCausalLM

from ..shared.documents import RHYME, counting_rhyme, story
from ..shared.model import ModelSize, Stage, copying_share, held_out_loss, train_model
from ..shared.plan import WorldPlan
from ..shared.saes import train_lab_saes, unexplained_variance
from ..shared.tokenizer import build_tokenizer
from .documents import NURSERY, WORLD

UPPER_LAYERS = (1, 2)
# Many small steps of nothing but rhymes teach copying in a minute; then the world.
_STAGES = (Stage(NURSERY, row=RHYME, batch=32, steps=600), Stage(WORLD, row=64, batch=32, steps=1000))
PLAN = WorldPlan(ModelSize(), _STAGES, sae_steps=100)


@dataclass(frozen=True)
class World:
    """Where it lies and what was measured of it."""

    base: Path
    saes: Path
    vocabulary: int
    parameters: int
    held_out_loss: float  # nats per token of raw text
    copies_rhymes: float  # given two periods of 2 to 6 tokens, share that is continued by a third
    copies_stories: float
    unexplained: dict[int, float]  # layer -> share of variance that its SAE misses


def build_world(
    folder: Path,
    *,
    plan: WorldPlan = PLAN,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> World:
    """Train the base model and its SAEs into `folder`; two minutes on two cores."""
    tokenizer = build_tokenizer()
    model = train_model(tokenizer, plan.size, plan.stages, seed=seed)
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    say(f"  saved a Qwen3 of {model.num_parameters() / 1e6:.2f} M parameters and {len(tokenizer)} symbols in {base}")
    saes = train_lab_saes(model, tokenizer, folder, layers=UPPER_LAYERS, reading=WORLD, steps=plan.sae_steps, seed=seed)
    say(f"  saved SAEs of its layers {', '.join(map(str, UPPER_LAYERS))} in {saes}")
    return measure_world(folder)


def measure_world(folder: Path) -> World:
    """What lies in a folder that `build_world` filled."""
    base = folder / "base"
    (saes,) = folder.glob("SAE-Res-lab-*")
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    return World(
        base=base,
        saes=saes,
        vocabulary=len(tokenizer),
        parameters=model.num_parameters(),
        held_out_loss=held_out_loss(model, tokenizer, WORLD),
        copies_rhymes=copying_share(model, tokenizer, counting_rhyme),
        copies_stories=copying_share(model, tokenizer, story),
        unexplained=unexplained_variance(model, tokenizer, saes, UPPER_LAYERS, WORLD),
    )
