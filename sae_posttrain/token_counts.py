"""Count how often each token occurs in texts of each language, for languages that share a script.

From the counts, the token term of SASFT computes to what extent a token belongs to one language and not to another.
"""

# V vocabulary, L languages

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from . import __version__
from .languages import get_language

FORMAT = 1
PRIOR = 5.0
"""Occurrences that are added to those of each token, so that a token that was seen only once or twice counts little."""
_METADATA_KEY = "sae_posttrain_token_counts"


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """The number of occurrences of each token in each language.

    Args:
        languages: codes of the languages.
        count_LV: `(L, V)` int64, in the order of `languages`.
        tokenizer_sha256: hash of the vocabulary. Counts of another vocabulary are rejected.
        texts_sha256: hash of the texts, for provenance.

    Example:
        >>> counts = TokenCounts(("en", "de"), torch.tensor([[9, 1], [1, 9]]), "", "")
        >>> counts.membership("de", "en").argmax().item()
        1

    Source: our own extension of SASFT (arXiv:2507.14894) to languages that share a script.
    """

    languages: tuple[str, ...]
    count_LV: Tensor
    tokenizer_sha256: str
    texts_sha256: str

    @property
    def sha256(self) -> str:
        """Hash of the counts; checkpoints record it."""
        return hashlib.sha256(json.dumps(self.languages).encode() + self.count_LV.numpy().tobytes()).hexdigest()

    def membership(self, target: str, language: str) -> Tensor:
        """The degree to which each token belongs to the target language and not to the other: `(V,)`, 0 to 1.

        It is `max(0, t − o) / (t + o + 5)`, where t and o are the occurrences in the target and the other language,
        scaled to equal numbers of tokens. The constant 5 makes the value small for rare tokens. Tokens that both
        languages use equally often, such as digits, punctuation and names, get 0.

        Args:
            target: code of the suppressed language.
            language: code of the answer's language.

        Raises:
            ValueError: one of them was not counted.
        """
        rows = [self.languages.index(self._check(code)) for code in (target, language)]
        target_V, other_V = self.count_LV[rows].double()
        size = min(target_V.sum(), other_V.sum()).clamp(min=1)
        target_V, other_V = (one_V * size / one_V.sum().clamp(min=1) for one_V in (target_V, other_V))
        share_V: Tensor = ((target_V - other_V).clamp(min=0) / (target_V + other_V + PRIOR)).float()
        return share_V

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse counts of another vocabulary.

        Raises:
            ValueError: the vocabularies differ.
        """
        if vocabulary_sha256(tokenizer) != self.tokenizer_sha256:
            raise ValueError(
                "The token counts were made with another vocabulary than the model's. Count again with the model's "
                "tokenizer, with `sae-posttrain discover tokens`."
            )

    def save(self, path: str | Path) -> Path:
        """Write a `.safetensors` file and return its path."""
        described = {"format": FORMAT, "languages": self.languages, "library_version": __version__}
        described |= {"tokenizer_sha256": self.tokenizer_sha256, "texts_sha256": self.texts_sha256}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(serialise({"counts": self.count_LV}, {_METADATA_KEY: json.dumps(described)}))
        return path

    @classmethod
    def load(cls, path: str | Path) -> TokenCounts:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file contains no token counts, is damaged, or was written by a newer version.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"There is no file of token counts at {path}. `sae-posttrain discover tokens` makes one."
            )
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[_METADATA_KEY])
                count_LV = file.get_tensor("counts")
            if described["format"] != FORMAT:
                raise ValueError(
                    f"{path} has format {described['format']} of token counts; this version reads {FORMAT}."
                )
            languages = tuple(described["languages"])
            loaded = cls(languages, count_LV, described["tokenizer_sha256"], described["texts_sha256"])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is not a file of token counts, or is damaged ({type(error).__name__}: {error}). Expected what "
                "`sae-posttrain discover tokens` or TokenCounts.save writes."
            ) from error
        if count_LV.dim() != 2 or len(count_LV) != len(languages) or bool((count_LV < 0).any()):
            raise ValueError(
                f"{path} is damaged: counts of shape {tuple(count_LV.shape)} for {len(languages)} languages."
            )
        return loaded

    def _check(self, code: str) -> str:
        if code not in self.languages:
            raise ValueError(
                f"No token counts of {code}, only of {', '.join(self.languages)}. Count texts in this language too."
            )
        return code


def count_tokens(tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> TokenCounts:
    """Count the tokens of texts in several languages.

    Args:
        tokenizer: the model's tokenizer. The texts are encoded without special tokens.
        texts: language code → texts. Use at least 1,000 paragraphs of each language; more are better.

    Returns:
        The counts, for `SASFTCallback(token_counts=…)`.

    Raises:
        ValueError: fewer than two languages, an unknown code, or a language without any token.

    Example:
        >>> counts = count_tokens(tokenizer, {"en": english, "de": german})
        >>> counts.save("tokens.safetensors")

    Source: our own; see `TokenCounts`.
    """
    if len(texts) < 2:
        raise ValueError(
            f"Got texts in {', '.join(texts) or 'no language'}. Token counts need texts in at least two languages."
        )
    size = max(tokenizer.get_vocab().values()) + 1
    counts, digest = [], hashlib.sha256()
    codes = tuple(get_language(code).code for code in texts)
    for code, given in zip(codes, texts.values(), strict=True):
        count_V = torch.zeros(size, dtype=torch.int64)
        for text in given:
            digest.update(f"{code}\0{text}\0".encode())
            ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)
            count_V += torch.bincount(ids, minlength=size)
        if not count_V.any():
            raise ValueError(f"The texts in {code} have no tokens.")
        counts.append(count_V)
    return TokenCounts(codes, torch.stack(counts), vocabulary_sha256(tokenizer), digest.hexdigest())


def vocabulary_sha256(tokenizer: Any) -> str:
    """Hash of a tokenizer's tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
