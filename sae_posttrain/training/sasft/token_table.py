"""Which tokens belong to a suppressed language, for answers in each other language.

Scripts tell most languages apart: then a token that holds a letter of the suppressed language's scripts belongs to it
wholly, and every other not at all. Where two languages share their scripts, `TokenCounts` of texts in both give each
token a weight between 0 and 1.
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
    """Membership of each token in each set, and which set holds for whom.

    Args:
        member_KV: 0 to 1.
        table_LT: for each language of an answer, in the order of `segments.CODES`, and each suppressed language, the
            row of `member_KV`; `UNPENALISED` for a language's own answers, and where nothing tells the two apart. The
            last row belongs to answers of unknown language.
        shared_L: languages that nothing tells apart from a suppressed one.
    """

    member_KV: Tensor
    table_LT: Tensor
    shared_L: Tensor

    def to(self, device: torch.device) -> TokenTable:
        return TokenTable(*(one.to(device) for one in (self.member_KV, self.table_LT, self.shared_L)))


def penalised_scripts(target: str, language: str) -> frozenset[str]:
    """The scripts whose letters show the target language in an answer in another language.

    Those of the target which the answer's own language does not use: Han and kana of Japanese in English, but kana
    alone in Chinese; nothing of Chinese in Japanese. Latin counts only where it is the target's main script: in Russian
    it is no sign of Serbian.

    Args:
        target: code of the suppressed language.
        language: code of the answer's.
    """
    main, *further = get_language(target).scripts
    scripts = {main, *(script for script in further if script != "Latn")}
    return frozenset(scripts - set(get_language(language).scripts))


def build_token_table(
    tokenizer: Any, suppress: Sequence[str], size: int, counts: TokenCounts | None = None
) -> TokenTable:
    """The table for a model and the languages to keep out.

    Args:
        tokenizer: the model's.
        suppress: codes of the languages to keep out of the others.
        size: number of the model's logits.
        counts: for pairs of languages that scripts do not tell apart, where both were counted.

    Raises:
        ValueError: no token of the vocabulary holds a letter of a suppressed language.
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
                f"({', '.join(get_language(target).scripts)}), so there is no token to penalise. A vocabulary may "
                "spell them in bytes that other scripts use too; else check that the tokenizer is the model's."
            )
    return TokenTable(torch.stack(members), table_LT, shared_L)


def fitted(member_V: Tensor, size: int) -> Tensor:
    """Cut or pad to the number of the model's logits, since the vocabulary may be smaller or larger."""
    member_V = member_V[:size].float()
    return torch.cat([member_V, member_V.new_zeros(size - len(member_V))])
