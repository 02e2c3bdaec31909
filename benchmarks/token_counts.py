"""How well token counts tell languages of one script apart, for the token term of SASFT.

    python benchmarks/token_counts.py --corpus FOLDER --tokenizer FOLDER [FOLDER …]

The corpus is one `<language>.jsonl.gz` per language, with a column `text`. Tokens are counted in the first, third, …
paragraphs and looked at in the others. For each pair of languages: the mean weight of a token in texts of the language
to keep out (`caught`, which the loss can reach), and in texts of the language that is wanted (`charged`, which it
should leave alone). Where scripts tell two languages apart, the same for the table by script.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import _rows
import torch
from _rows import Row
from torch import Tensor
from transformers import AutoTokenizer

from sae_posttrain.texts import load_texts
from sae_posttrain.token_counts import count_tokens
from sae_posttrain.training.sasft.token_table import penalised_scripts
from sae_posttrain.vocabulary import token_scripts

LATIN = ("de", "en", "fr")
BY_SCRIPT = (("zh", "en"), ("ru", "en"), ("ko", "en"))
PARAGRAPHS = (100, 1000)
HELD_OUT = 1000


def occurrences(tokenizer: Any, texts: Sequence[str], size: int) -> Tensor:
    """How often each token occurs, as a share of all."""
    ids = [one for text in texts for one in tokenizer(text, add_special_tokens=False)["input_ids"]]
    count_V = torch.bincount(torch.tensor(ids), minlength=size).double()
    return count_V / count_V.sum()


def rows_of(name: str, tokenizer: Any, texts: dict[str, list[str]]) -> list[Row]:
    size = max(tokenizer.get_vocab().values()) + 1
    held_out = {code: occurrences(tokenizer, given[1::2][:HELD_OUT], size) for code, given in texts.items()}
    members: dict[str, tuple[str, str, Tensor]] = {}
    for count in PARAGRAPHS:
        counts = count_tokens(tokenizer, {code: texts[code][::2][:count] for code in LATIN})
        for target, other in permutations(LATIN, 2):
            case = f"{name}, {target} in {other}, counts of {count} paragraphs each"
            members[case] = (target, other, counts.membership(target, other))
    held = token_scripts(tokenizer)
    for target, other in BY_SCRIPT:
        members[f"{name}, {target} in {other}, by script"] = target, other, held.mask(penalised_scripts(target, other))
    rows = []
    for case, (target, other, member_V) in members.items():
        for measure, code in (("caught", target), ("charged", other)):
            weight = float(member_V.double() @ held_out[code])
            rows.append(Row(case, f"{measure}: mean weight of a token of {code} text", round(weight, 4), "share"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    codes = dict.fromkeys([*LATIN, *(code for pair in BY_SCRIPT for code in pair)])
    texts = {code: load_texts(str(args.corpus / f"{code}.jsonl.gz"), limit=2 * HELD_OUT) for code in codes}
    rows = [
        row for folder in args.tokenizer for row in rows_of(folder.name, AutoTokenizer.from_pretrained(folder), texts)
    ]
    print(f"Wrote {_rows.write('token_counts', rows)}")
    for row in rows:
        print(f"{row.case:<60} {row.measure:<50} {row.value}")


if __name__ == "__main__":
    main()
