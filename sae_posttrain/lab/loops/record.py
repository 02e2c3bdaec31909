"""Save every answer with its loop, for the demo's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...artefacts import LOOP
from ...metrics import find_loop
from ...sampling import Response
from ..shared.record import write_rows


def write_looping_answers(
    path: Path,
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Response],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write every answer with its prompt and loop, like `measure repetition --output`. Loops are found in tokens."""

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    rows = []
    for row, answer in zip(asked, answers, strict=True):
        ids = answer.ids
        loop = find_loop(ids)
        found = None
        if loop is not None:
            start, again = len(text(ids[: loop.start])), len(text(ids[: loop.start + loop.period]))
            found = {"start": start, "end": len(answer.text), "period": again - start}
        rows.append({"prompt": row["prompt"], **answer.to_row(), LOOP: found})
    write_rows(path, rows)
