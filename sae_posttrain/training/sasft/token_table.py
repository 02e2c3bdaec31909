"""The tokens that belong to a suppressed language, for answers in each other language.

Most languages differ in script. Then a token belongs to the suppressed language if it contains a letter of the
language's scripts. If two languages share their scripts, `TokenCounts` of texts in both give each token a weight
between 0 and 1.
"""

# V vocabulary, K distinct tables, L languages, T suppressed languages

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...languages import get_language
from ...token_counts import TokenCounts
from ...vocabulary import token_scripts
from .segments import CODES

UNPENALISED = -1


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The membership of each token in each set, and the set that applies to each pair of languages.

    Args:
        member_KV: membership, 0 to 1.
        table_LT: the row of `member_KV` for each language of an answer (in the order of `segments.CODES`) and each
            suppressed language. It is `UNPENALISED` for the suppressed language's own answers, and for pairs that
            cannot be distinguished. The last row is for answers of unknown language.
        shared_L: languages that cannot be distinguished from a suppressed language.
    """

    member_KV: Tensor
    table_LT: Tensor
    shared_L: Tensor

    def to(self, device: torch.device) -> TokenTable:
        return TokenTable(*(one.to(device) for one in (self.member_KV, self.table_LT, self.shared_L)))


def penalised_scripts(target: str, language: str) -> frozenset[str]:
    """The scripts whose letters identify the target language in an answer in another language.

    These are the target's scripts that the answer's own language does not use. For Japanese they are Han and kana in
    English answers, and only kana in Chinese answers. For Chinese in Japanese answers there are none. Latin counts only
    if it is the target's main script: Latin letters in a Russian answer are not evidence of Serbian.

    Args:
        target: code of the suppressed language.
        language: code of the answer's language.
    """
    main, *further = get_language(target).scripts
    scripts = {main, *(script for script in further if script != "Latn")}
    return frozenset(scripts - set(get_language(language).scripts))


def build_token_table(
    tokenizer: Any, suppress: Sequence[str], size: int, counts: TokenCounts | None = None
) -> TokenTable:
    """Build the table for a model and the suppressed languages.

    Args:
        tokenizer: the model's tokenizer.
        suppress: codes of the languages to keep out of answers in other languages.
        size: number of logits of the model.
        counts: token counts, used for pairs of languages that share their scripts if both were counted.

    Raises:
        ValueError: no token of the vocabulary contains a letter of a suppressed language.
    """
    held = token_scripts(tokenizer)
    rows: dict[Any, int] = {}
    members: list[Tensor] = []

    def row_of(key: Any, make: Callable[[], Tensor]) -> int:
        if key not in rows:
            rows[key] = len(members)
            members.append(fitted(make(), size))
        return rows[key]

    table_LT = torch.full((len(CODES) + 1, len(suppress)), UNPENALISED)
    shared_L = torch.zeros(len(CODES) + 1, dtype=torch.bool)
    for column, target in enumerate(suppress):
        for row, code in enumerate(CODES):
            if code == target:
                continue
            scripts = penalised_scripts(target, code)
            if scripts:
                table_LT[row, column] = row_of(scripts, partial(held.mask, scripts))
            elif counts is not None and {target, code} <= set(counts.languages):
                table_LT[row, column] = row_of((target, code), partial(counts.membership, target, code))
            else:
                shared_L[row] = True
        if not any(bool(members[row].any()) for row in table_LT[:, column].unique().tolist() if row >= 0):
            raise ValueError(
                f"No token of this vocabulary holds a letter of {target}'s scripts "
                f"({', '.join(get_language(target).scripts)}), so there is no token to penalise. Check that the "
                "tokenizer is the model's. If its vocabulary writes these letters in bytes that other scripts use too, "
                "use the feature term."
            )
    return TokenTable(torch.stack(members), table_LT, shared_L)


def fitted(member_V: Tensor, size: int) -> Tensor:
    """Cut or pad to the number of logits of the model, because the vocabulary may be smaller or larger."""
    member_V = member_V[:size].float()
    return torch.cat([member_V, member_V.new_zeros(size - len(member_V))])
