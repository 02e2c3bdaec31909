"""Cut a BPE vocabulary to the tokens that a corpus needs: with a small model the output head is most of the cost.

The rows of the embedding that stay are unchanged, and so is the tokenisation of the corpus. Probabilities are not: they
are those of the whole vocabulary given that none of the tokens that were cut is next.
"""

# V tokens before the cut, K tokens kept, D model width

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPTS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Cyrillic}]")
BYTE = regex.compile(r"<0x[0-9A-F]{2}>")


def cut_vocabulary(folder: Path, texts: Sequence[str]) -> tuple[int, int]:
    """Cut the vocabulary of the checkpoint in `folder`, in place.

    Kept are the tokens of `texts`, every token with a letter of a script in `SCRIPTS` (so that a switch into one of
    these stays as likely as it was), bytes, single characters, special tokens, and what these are merged from.

    Returns: how many tokens were kept, and how many there were.
    Raises: ValueError for a tokenizer that is no BPE, or when a text would be tokenised in another way.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if described["model"]["type"] != "BPE":
        raise ValueError(f"{folder} has a {described['model']['type']} tokenizer; only BPE vocabularies can be cut.")
    before = encode(tokenizer, texts)
    kept = kept_tokens(described, {token for ids in before for token in ids})
    renumber(described, kept)
    (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    after = encode(AutoTokenizer.from_pretrained(folder), texts)
    changed = sum([kept[token] for token in new] != old for old, new in zip(before, after, strict=True))
    if changed:
        raise ValueError(f"{changed} of {len(texts)} texts are tokenised in another way after the cut.")
    cut_weights(folder, kept)
    return len(kept), len(tokenizer)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(texts))["input_ids"]]


def kept_tokens(described: dict[str, Any], used: set[int]) -> list[int]:
    """Ids to keep, ascending: their place in this list is their new id."""
    vocabulary: dict[str, int] = described["model"]["vocab"]
    special = {entry["id"] for entry in described["added_tokens"] if "unused" not in entry["content"]}
    added = {entry["id"] for entry in described["added_tokens"]}
    ranks = {tuple(pair): rank for rank, pair in enumerate(described["model"]["merges"])}
    kept = used | special
    for token, index in vocabulary.items():
        if index in used or BYTE.fullmatch(token) or len(token) == 1 or (index not in added and SCRIPTS.search(token)):
            kept.add(index)
            kept.update(vocabulary[part] for part in merged_from(token, ranks) if part in vocabulary)
    return sorted(kept)


def merged_from(token: str, ranks: dict[tuple[str, ...], int]) -> Iterable[str]:
    """All that BPE forms on its way from the token's characters to the token."""
    parts = list(token)
    yield from parts
    while len(parts) > 1:
        rank, place = min((ranks.get((a, b), len(ranks)), i) for i, (a, b) in enumerate(pairwise(parts)))
        if rank == len(ranks):
            return
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        yield parts[place]


def renumber(described: dict[str, Any], kept: Sequence[int]) -> None:
    """Leave out of a tokenizer.json what is cut, and give the rest its new ids."""
    new = {old: index for index, old in enumerate(kept)}
    model = described["model"]
    model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    stays = model["vocab"]
    model["merges"] = [pair for pair in model["merges"] if all(part in stays for part in (*pair, "".join(pair)))]
    described["added_tokens"] = [
        {**entry, "id": new[entry["id"]]} for entry in described["added_tokens"] if entry["id"] in new
    ]
    processor = described.get("post_processor") or {}
    for entry in (processor.get("special_tokens") or {}).values():
        entry["ids"] = [new[old] for old in entry["ids"]]


def cut_weights(folder: Path, kept: Sequence[int]) -> None:
    """Keep these rows of the embedding and of the output head, and give the configs' special tokens their new ids."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    new = {old: index for index, old in enumerate(kept)}
    with torch.no_grad():
        rows_KD = model.get_input_embeddings().weight[torch.tensor(kept)].clone()
        head_KD = model.get_output_embeddings().weight[torch.tensor(kept)].clone()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(rows_KD)
        if not tied:
            model.get_output_embeddings().weight.copy_(head_KD)
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, int):
                setattr(config, name, new[value])
            elif isinstance(value, list):
                setattr(config, name, [new[one] for one in value if one in new])
    model.save_pretrained(folder)
