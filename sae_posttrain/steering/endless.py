"""Whether a sampled response ends in an endless loop, and the position of the loop in its token ids."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..metrics import find_loop
from ..metrics.loops import LoopSettings
from ..metrics.search import Loop
from ..sampling import Response


def check_loop_fits(max_new_tokens: int, loop_settings: LoopSettings) -> None:
    if max_new_tokens < loop_settings.min_tokens:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for a loop, which has at least "
            f"{loop_settings.min_tokens} tokens. Raise max_new_tokens, or lower the minimum loop length."
        )


def endless_loop(response: Response, tokenizer: PreTrainedTokenizerBase, loop_settings: LoopSettings) -> Loop | None:
    """Find the endless loop at the end of a response, if there is one, in its token ids.

    Args:
        response: the response, with its token ids.
        tokenizer: the model's tokenizer.
        loop_settings: what counts as a loop in token ids. With `fold_digits`, a response is also a loop if its text
            repeats except for numbers that count up or down.
    """
    found = find_loop(response.ids, loop_settings, ended=response.ended)
    if found is not None or not loop_settings.fold_digits:
        return found
    counting = find_loop(response.text, loop_settings, ended=response.ended)
    if counting is None:
        return None
    start, again = (
        _token_at(response.ids, tokenizer, place) for place in (counting.start, counting.start + counting.period)
    )
    return Loop(start, len(response.ids), max(1, again - start))


def _token_at(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, place: int) -> int:
    """The number of leading tokens whose text has at most `place` characters."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        text = tokenizer.decode(ids[:middle], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        low, high = (middle, high) if len(text) <= place else (low, middle - 1)
    return low
