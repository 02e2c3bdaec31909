"""What a listing of files may hold: SAEs, each a file of weights and perhaps one of settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

# A block's output under TransformerLens's names and under transformers'.
_POST = re.compile(r"(?:blocks\.(\d+)\.hook_resid_post|(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)(?:\.output)?)")
_PRE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")


@dataclass(frozen=True)
class Found:
    """One SAE in a listing.

    Args:
        weights: file name, relative to what was listed.
        config: likewise; empty when the format has none.
        layer: 0-based decoder block, as far as the path says.
    """

    weights: str
    config: str = ""
    layer: int | None = None


def pairs(names: Iterable[str], weights: str, config: str) -> list[tuple[str, str, str]]:
    """Folder, weights and config of every folder in a listing that holds both; `weights` may lie in a subfolder."""
    present = set(names)
    found = []
    for name in sorted(present):
        if name == weights or name.endswith(f"/{weights}"):
            folder = PurePosixPath(name).parents[weights.count("/")]
            beside = str(folder / config)
            if beside in present:
                found.append((str(folder), name, beside))
    return found


def layer_of_hook(hook: object, where: str) -> int:
    """The block whose output residual a hook reads; the input of block n is the output of block n-1.

    Raises: ValueError when it reads anything else.
    """
    if isinstance(hook, str):
        if match := _POST.fullmatch(hook):
            return int(match[1] or match[2])
        if (match := _PRE.fullmatch(hook)) and int(match[1]) > 0:
            return int(match[1]) - 1
    raise ValueError(
        f"{where}: this SAE reads {hook!r}; only SAEs of the residual stream after a block can be used, such as "
        "blocks.12.hook_resid_post."
    )


def layer_in(path: str, pattern: str) -> int | None:
    """The number that a pattern's first group finds in a path, the last time it does."""
    found = re.findall(pattern, path)
    return int(found[-1]) if found else None
