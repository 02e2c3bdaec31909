"""Train the worlds that ship with the package: `python -m sae_posttrain.lab.ship [--check]`. It takes three minutes."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_file

from .loops import world as loops
from .shared.jobs import one_thread
from .shared.making import ship_world, train_world
from .shared.plan import WorldPlan
from .switching import world as switching

WORLDS: dict[str, ModuleType] = {"switching": switching, "loops": loops}
SEED = 0
# Training amplifies rounding differences, so other hardware or another torch version gives other weights. The world's
# measurements must agree within these bounds.
NATS = 0.05  # held-out loss
SHARE = 0.15  # share of copied patterns, and share of variance that the SAEs do not explain


def ship_worlds(arguments: list[str] | None = None) -> int:
    """Train the worlds and write their files; with --check, compare with the shipped files. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sae_posttrain.lab.ship", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the shipped files")
    parser.add_argument("--only", choices=tuple(WORLDS), help="one world (default: both)")
    args = parser.parse_args(arguments)
    found: list[str] = []
    for name, world in WORLDS.items():
        if args.only not in (None, name):
            continue
        if not args.check:
            print(f"{name}: wrote {make(world.PLAN, world.FILE)}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = make(world.PLAN, Path(scratch, "made.safetensors"))
            if same_weights(made, world.FILE):
                print(f"{name}: the same weights, bit for bit")
                continue
            now, shipped = (
                asdict(world.open_world(Path(scratch, file.stem), file=file)) for file in (made, world.FILE)
            )
        complaints = differences(now, shipped)
        print(f"{name}: {'; '.join(complaints) or 'other weights, but equal measurements within the bounds'}")
        found += complaints
    return int(bool(found))


def make(plan: WorldPlan, file: Path, *, seed: int = SEED) -> Path:
    """Train a world on one thread, and write it as one file."""
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        train_world(Path(scratch), plan, seed=seed)
        made = {"seed": str(seed), **{name: version(name) for name in ("torch", "transformers", "eai-sparsify")}}
        ship_world(Path(scratch), file, plan, made=made)
    return file


def same_weights(one: Path, other: Path) -> bool:
    """Whether two files contain the same tensors, bit for bit."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def differences(made: dict[str, Any], shipped: dict[str, Any]) -> list[str]:
    """The measurements of two worlds that differ by more than the bounds, one sentence each."""
    pairs = {name: (made[name], shipped[name]) for name in made if name not in ("base", "saes", "unexplained")}
    pairs |= {
        f"unexplained, layer {layer}": (made["unexplained"][layer], share)
        for layer, share in shipped["unexplained"].items()
    }
    found = []
    for name, (now, before) in pairs.items():
        bound = NATS if name == "held_out_loss" else SHARE if isinstance(now, float) else 0
        if abs(now - before) > bound:
            found.append(f"{name} is {now:.4g}, but {before:.4g} in the shipped file; the bound is {bound}")
    return found


if __name__ == "__main__":
    raise SystemExit(ship_worlds())
