"""The cases of `sasft_step.py`: what is trained, with which features, on which rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from _models import SIZES


@dataclass(frozen=True)
class Case:
    """One way to train."""

    size: str = "4M"
    rows: int = 4
    length: int = 256
    features: int = 2
    layers: int = 2
    dictionary: int = 32 * 1024
    layout: Literal["full", "padded", "packed"] = "full"
    lora: bool = False
    dtype: str = "float32"
    rounds: int = 15
    device: str = "cpu"
    shares: tuple[float, ...] = ()
    """Of the positions in which the token term is computed; instead of the feature term, where there are any."""

    def __str__(self) -> str:
        if self.shares:
            vocabulary = SIZES[self.size][2]
            shape = f"{self.size}, {self.rows} x {self.length} tokens, vocabulary of {vocabulary}"
            return shape
        ways = [*([self.layout] if self.layout != "full" else []), *(["LoRA"] if self.lora else [])]
        shape = f"{self.rows} x {self.length} tokens, {self.features} of {self.dictionary} features in {self.layers} "
        return ", ".join([self.size, shape + ("layer" if self.layers == 1 else "layers"), *ways])


QUICK = [Case(rounds=5), Case(features=64, layers=4, rounds=5), Case(layout="packed", rounds=5)]
CASES = [
    Case(),
    Case(features=1, layers=1),
    Case(features=16),
    Case(features=64),
    Case(layers=4),
    Case(features=64, layers=4),
    Case(dictionary=4 * 1024),
    Case(dictionary=128 * 1024),
    Case(length=64),
    Case(length=1024, rounds=7),
    Case(layout="padded"),
    Case(layout="packed"),
    Case(lora=True),
    Case(dtype="bfloat16", rounds=7),
    Case(size="40M", rounds=7),
    Case(size="40M", lora=True, rounds=7),
    Case(size="150M", rows=2, length=128, rounds=7),
    Case(size="500M", rows=2, length=64, rounds=5),
]
GPU = Case(device="cuda", dtype="bfloat16", rounds=7, size="1.7B", rows=8, length=512, features=16, layers=4)
GPU_CASES = [GPU, replace(GPU, lora=True), replace(GPU, size="8B", rows=4, lora=True)]
TOKEN_CASES = [
    Case(size="500M", rows=4, length=64, rounds=4, shares=(0.25, 1.0)),
    Case(size="500M", rows=8, length=128, rounds=2, shares=(0.25,)),
]
