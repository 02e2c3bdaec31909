"""Find the language of an answer from the scripts of its tokens, or from its decoded text if these are unclear."""

# B batch, S sequence

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...languages import SCRIPTS, get_language, script_counts, token_script
from ...metrics.answer_language import AnswerLanguage, answer_language, language_of_writing
from ...vocabulary import token_bytes

FIRST_TOKENS = 512
"""Number of tokens of a long answer that are read first. The rest is read only if the language is still unclear."""
CLEAR_SHARE, CLEAR_WORDS = 0.9, 50
# Japanese uses both Han and kana, so the text shows more than the tokens.
_NEEDS_TEXT = frozenset({"Hani", "Hira", "Kana", "Bopo"})
# Characters of code, LaTeX, URLs and markup. If there are any, finding the prose needs the text.
_SIGNS = re.compile(r"[`~$\\<>{}=;_@|/]|\]\(|www")
_NOTHING = AnswerLanguage(None, None, 0.0, 0.0)


class ScriptIdentifier:
    """Identifies the language of each segment's labelled tokens by the script of their prose.

    If the tokens are of one script and contain no character of code, they are prose in this script. Otherwise they are
    decoded, and `answer_language` reads the text. The token ids are copied to the CPU. Nothing is kept between batches.

    Args:
        tokenizer: the model's tokenizer.
        candidates: codes of the languages that an answer may be in.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._candidates = tuple(dict.fromkeys(get_language(code).code for code in candidates))
        raws = token_bytes(tokenizer)
        scripts = [token_script(raw) for raw in raws]
        place: dict[str | None, int] = {script: index for index, script in enumerate(SCRIPTS)}
        self._raws = raws if _joins_bytes(tokenizer) else None
        self._scripts = np.array([place.get(script, len(SCRIPTS)) for script in scripts])
        self._unclear = np.array([_is_unclear(*one) for one in zip(raws, scripts, strict=True)])

    def __call__(
        self, inputs: Mapping[str, Tensor], segment_BS: Tensor, open_BS: Tensor | None = None
    ) -> dict[int, AnswerLanguage]:
        """Identify the language of each segment. Returns a mapping from segment number to the result.

        Args:
            inputs: a batch with `input_ids` and `labels`, `(B, S)`.
            segment_BS: number of each token's segment.
            open_BS: the tokens whose language is requested; None for all. Segments without such tokens are left out.
        """
        return {number: self._read(runs) for number, runs in labelled_runs(inputs, segment_BS, open_BS)}

    def text(self, runs: Sequence[np.ndarray]) -> str:
        """Decode runs of token ids to text, one line per run."""
        if self._raws is None:
            return "\n".join(self._tokenizer.decode(run.tolist(), skip_special_tokens=True) for run in runs)
        # The result is that of the tokenizer's own decoder, which takes several times as long.
        known = (run[run < len(self._raws)].tolist() for run in runs)
        return b"\n".join(b"".join([self._raws[index] for index in run]) for run in known).decode("utf-8", "replace")

    def _read(self, runs: Sequence[np.ndarray]) -> AnswerLanguage:
        ids = np.concatenate(runs)
        found = self._by_tokens(ids)
        if found is not None:
            return found
        if len(ids) > FIRST_TOKENS:
            first = answer_language(self.text(_first(runs, FIRST_TOKENS)), self._candidates)
            if first.share >= CLEAR_SHARE and first.words >= CLEAR_WORDS:
                return first
        return answer_language(self.text(runs), self._candidates)

    def _by_tokens(self, ids: np.ndarray) -> AnswerLanguage | None:
        """The result from the tokens alone; None if the text is needed."""
        ids = ids[ids < len(self._scripts)]
        if self._unclear[ids].any():
            return None
        places = self._scripts[ids]
        places = places[places < len(SCRIPTS)]
        if not len(places):
            return _NOTHING
        script = SCRIPTS[places[0]]
        if script in _NEEDS_TEXT or (places != places[0]).any():
            return None
        return AnswerLanguage(language_of_writing(script, self._candidates), script, 1.0, float(len(places)))


def labelled_runs(
    inputs: Mapping[str, Tensor], segment_BS: Tensor, open_BS: Tensor | None = None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """For each segment, its number and its labelled token ids, as contiguous runs."""
    wanted_BS = inputs["labels"] != -100
    if open_BS is not None:
        wanted_BS = wanted_BS & open_BS
    stacked = torch.stack([inputs["input_ids"], segment_BS, wanted_BS.to(segment_BS.dtype)])
    ids, numbers, wanted = stacked.flatten(1).cpu().numpy()  # a single copy, which synchronises with the device once
    place = wanted.nonzero()[0]
    number = numbers[place]
    starts = 1 + ((np.diff(place) != 1) | (np.diff(number) != 0)).nonzero()[0]
    by_number: dict[int, list[np.ndarray]] = {}
    for run in np.split(place, starts) if len(place) else ():
        by_number.setdefault(int(numbers[run[0]]), []).append(ids[run])
    yield from by_number.items()


def _joins_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is the concatenation of its tokens' bytes. WordPiece, for example, joins words with spaces."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = "" if backend is None else json.dumps(json.loads(backend.to_str()).get("decoder"))
    return "ByteLevel" in decoder or "ByteFallback" in decoder


def _is_unclear(raw: bytes, script: str | None) -> bool:
    """Whether a token contains a character of code, letters of several scripts, or part of a possible letter."""
    text = raw.decode("utf-8", "ignore")
    if _SIGNS.search(text):
        return True
    if raw.isascii() or script is not None:
        return False
    return text.encode() != raw or bool(script_counts(text))


def _first(runs: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    kept = []
    for run in runs:
        if count <= 0:
            break
        kept.append(run[:count])
        count -= len(run)
    return kept
