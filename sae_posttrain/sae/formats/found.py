"""Recognise SAEs in a list of file names: each is a file of weights, and perhaps a file of settings."""

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
        weights: path of the file of weights, relative to the source.
        config: path of the file of settings; empty if the format has none.
        layer: 0-based decoder block; None if the path does not show it.
        beside: path of a third file that loading may need; empty if there is none.
    """

    weights: str
    config: str = ""
    layer: int | None = None
    beside: str = ""


def pairs(names: Iterable[str], weights: str, config: str) -> list[tuple[str, str, str]]:
    """Folder, weights and config of every folder that contains both files; `weights` may be in a subfolder."""
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
    """The block whose output residual a hook reads. The input of block n is the output of block n-1.

    Raises:
        ValueError: the hook reads something other than the residual stream.
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
    """The number in the first group of a pattern, at the pattern's last match in a path; None if it does not match."""
    found = re.findall(pattern, path)
    return int(found[-1]) if found else None
