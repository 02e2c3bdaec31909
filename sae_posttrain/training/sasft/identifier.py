"""The language of an answer, from its own tokens: by their scripts where that is certain, else by the decoded text."""

# B batch, S sequence, V vocabulary, M labelled tokens of one segment

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...languages import SCRIPTS, get_language, script_counts, token_script
from ...metrics.answer_language import AnswerLanguage, answer_language, language_of_writing
from ...vocabulary import token_bytes

FIRST_TOKENS = 512
"""A long answer is read so far first, and as a whole only where that is not clear."""
CLEAR_SHARE, CLEAR_WORDS = 0.9, 50
# Han and kana share languages, so that their text tells more than their tokens.
_NEEDS_TEXT = frozenset({"Hani", "Hira", "Kana", "Bopo"})
# Signs of code, LaTeX, addresses and markup. Where one is, only the text tells what is prose.
_SIGNS = re.compile(r"[`~$\\<>{}=;_@|/]|\]\(|www")
_NOTHING = AnswerLanguage(None, None, 0.0, 0.0)


class ScriptIdentifier:
    """Tell the language of each segment's labelled tokens by the script of the prose in them.

    Tokens of one script and without any sign of code are that script's prose. Anything else is decoded and read by
    `answer_language`. The token ids are copied to the CPU for it; nothing is kept from one batch to the next.

    Args:
        tokenizer: the model's.
        candidates: codes of the languages that an answer may be in.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._candidates = tuple(dict.fromkeys(get_language(code).code for code in candidates))
        raws = token_bytes(tokenizer)
        scripts = [token_script(raw) for raw in raws]
        place: dict[str | None, int] = {script: index for index, script in enumerate(SCRIPTS)}
        self._script_V = torch.tensor([place.get(script, len(SCRIPTS)) for script in scripts])
        self._unclear_V = torch.tensor([_is_unclear(*one) for one in zip(raws, scripts, strict=True)])

    def __call__(
        self, inputs: Mapping[str, Tensor], segment_BS: Tensor, open_BS: Tensor | None = None
    ) -> dict[int, AnswerLanguage]:
        """What each segment tells, by its number.

        Args:
            inputs: a batch with `input_ids` and `labels`, `(B, S)`.
            segment_BS: number of each token's segment.
            open_BS: the tokens whose language is asked for; without it, all. Segments without any are left out.
        """
        return {number: self._read(runs) for number, runs in labelled_runs(inputs, segment_BS, open_BS)}

    def text(self, runs: Sequence[Tensor]) -> str:
        """Runs of token ids as text, each on a line of its own."""
        return "\n".join(self._tokenizer.decode(run.tolist(), skip_special_tokens=True) for run in runs)

    def _read(self, runs: Sequence[Tensor]) -> AnswerLanguage:
        ids_M = torch.cat(list(runs))
        found = self._by_tokens(ids_M)
        if found is not None:
            return found
        if len(ids_M) > FIRST_TOKENS:
            first = answer_language(self.text(_first(runs, FIRST_TOKENS)), self._candidates)
            if first.share >= CLEAR_SHARE and first.words >= CLEAR_WORDS:
                return first
        return answer_language(self.text(runs), self._candidates)

    def _by_tokens(self, ids_M: Tensor) -> AnswerLanguage | None:
        """What the tokens alone tell; None where only their text does."""
        ids_M = ids_M[ids_M < len(self._script_V)]
        if bool(self._unclear_V[ids_M].any()):
            return None
        script_M = self._script_V[ids_M]
        script_M = script_M[script_M < len(SCRIPTS)]
        if not len(script_M):
            return _NOTHING
        script = SCRIPTS[int(script_M[0])]
        if script in _NEEDS_TEXT or bool((script_M != script_M[0]).any()):
            return None
        return AnswerLanguage(language_of_writing(script, self._candidates), script, 1.0, float(len(script_M)))


def labelled_runs(
    inputs: Mapping[str, Tensor], segment_BS: Tensor, open_BS: Tensor | None = None
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Number of each segment, and its labelled token ids, in runs without a gap, on the CPU."""
    wanted_BS = inputs["labels"] != -100
    if open_BS is not None:
        wanted_BS = wanted_BS & open_BS
    stacked = torch.stack([inputs["input_ids"], segment_BS, wanted_BS.to(segment_BS.dtype)])
    id_BS, number_BS, asked_BS = stacked.cpu()  # one copy, which waits for the device once
    place = asked_BS.flatten().nonzero().squeeze(-1)
    number, id_at = number_BS.flatten()[place], id_BS.flatten()[place]
    starts = torch.ones_like(place, dtype=torch.bool)
    starts[1:] = (place[1:] != place[:-1] + 1) | (number[1:] != number[:-1])
    at = starts.nonzero().squeeze(-1)
    runs = id_at.tensor_split(at[1:])
    by_number: dict[int, list[Tensor]] = {}
    for one, run in zip(number[at].tolist(), runs, strict=False):
        by_number.setdefault(one, []).append(run)
    for one, together in by_number.items():
        yield one, tuple(together)


def _is_unclear(raw: bytes, script: str | None) -> bool:
    """Whether a token has a sign of code, letters of several scripts, or a part of a character that may be a letter."""
    text = raw.decode("utf-8", "ignore")
    if _SIGNS.search(text):
        return True
    if raw.isascii() or script is not None:
        return False
    return text.encode() != raw or bool(script_counts(text))


def _first(runs: Sequence[Tensor], count: int) -> list[Tensor]:
    kept = []
    for run in runs:
        if count <= 0:
            break
        kept.append(run[:count])
        count -= len(run)
    return kept
