"""The tokens that count as a switch: a matrix from the vocabulary to the requested scripts."""

# V vocabulary, G columns

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..languages import SCRIPTS, get_language
from ..vocabulary import token_scripts

_NOBODYS = frozenset({"Zyyy", "Zinh"})


def scripts_named(entries: Iterable[str]) -> frozenset[str]:
    """The scripts of languages ('zh') and scripts given by their own codes ('Hani').

    Raises:
        ValueError: an unknown language.
    """
    named: set[str] = set()
    for entry in entries:
        named.update([entry] if entry in SCRIPTS else get_language(entry).scripts)
    return frozenset(named)


def unexpected_in(language: str, allowed: Iterable[str] = (), *, latin: bool = False) -> frozenset[str]:
    """The scripts that an answer in this language is not expected to use. Latin is included only with `latin`."""
    expected = {*get_language(language).scripts, *scripts_named(allowed), *([] if latin else ["Latn"])}
    return frozenset(SCRIPTS) - _NOBODYS - expected


class ScriptColumns:
    """For each script and each given set of scripts, the tokens that contain one of its letters.

    Args:
        tokenizer: a transformers tokenizer.
        sets: sets of scripts.
        size: number of logits of the model.
        device: device of the matrix.
    """

    def __init__(
        self, tokenizer: Any, sets: Iterable[frozenset[str]], size: int, device: torch.device | str = "cpu"
    ) -> None:
        table = token_scripts(tokenizer)
        wanted = frozenset[str]().union(*(sets := list(dict.fromkeys(sets))))
        held = frozenset[str]().union(*(letters.scripts | {letters.begun or ""} for letters in table.letters))
        self.scripts: tuple[str, ...] = tuple(sorted(wanted & held))
        self._column: dict[Any, int] = {}
        columns: list[Tensor] = []
        for name, scripts, begun in [
            *((script, {script}, True) for script in self.scripts),
            *(((one, "any"), one, True) for one in sets),
            *(((one, "whole"), one, False) for one in sets),
        ]:
            self._column[name] = len(columns)
            columns.append(table.mask(scripts, begun=begun, size=size)[:size])
        self.matrix_VG: Tensor = torch.stack(columns, dim=1).float().to(device)

    def any(self, scripts: frozenset[str]) -> int:
        """Column of the tokens that contain or begin a letter of one of these scripts, which are one of the `sets`."""
        return self._column[scripts, "any"]

    def whole(self, scripts: frozenset[str]) -> int:
        """Column of the tokens that contain a whole letter of one of these scripts, which are one of the `sets`."""
        return self._column[scripts, "whole"]

    def of(self, scripts: frozenset[str]) -> dict[str, int]:
        """The column of each of these scripts for which the vocabulary has tokens."""
        return {script: self._column[script] for script in self.scripts if script in scripts}

    def masses(self, probabilities_NV: Tensor) -> Tensor:
        """The total probability `(N, G)` of the tokens of each column."""
        return (probabilities_NV @ self.matrix_VG).clamp(0, 1)

    def held(self, ids: Sequence[int]) -> Tensor:
        """Whether each token belongs to each column, `(S, G)`, on the CPU."""
        return self.matrix_VG[torch.tensor(ids, device=self.matrix_VG.device, dtype=torch.long)].cpu() > 0
