"""Conversations with tools: only the first turn is steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as tf
from datasets import Dataset

from sae_posttrain.training.rollouts.source import Source

from .world import GROUP, LOOPING, WORDS, Watched, steered, tokenizer

TURN = 3  # tokens of a turn
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} "
    "{% for c in m.get('tool_calls', []) %}{{ c['function']['name'] }} {{ c['function']['arguments'] }} {% endfor %}"
    "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
)


class CallingTokenizer(tf.PreTrainedTokenizerFast):
    """Takes a turn that begins with `LOOPING` for a call of the tool `look`."""

    def parse_response(self, ids: Any, **kwargs: Any) -> dict[str, Any]:
        content = self.decode(ids, skip_special_tokens=True)
        call = {"type": "function", "function": {"name": "look", "arguments": {}}}
        calls = {"tool_calls": [call]} if content.startswith(LOOPING) else {}
        return {"role": "assistant", "content": content, **calls}


def calling() -> CallingTokenizer:
    made = CallingTokenizer(tokenizer_object=tokenizer().backend_tokenizer, pad_token="<pad>", eos_token="<eos>")
    made.chat_template, made.response_template = TEMPLATE, {}
    return made


def look() -> str:
    """Look around."""
    return "moon"


def one_after_the_other(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(place) for place in range(len(completions))]


def test_the_first_turn_is_steered_and_what_follows_the_tool_is_not(tmp_path: Path, monkeypatch: Any) -> None:
    def counted(self: Source, model: Any, rows: Any) -> Any:
        calls.append(list(rows))
        return generating(self, model, rows)

    calls: list[list[bool]] = []
    generating = Source.generating
    monkeypatch.setattr(Source, "generating", counted)
    prompts = [{"prompt": [{"role": "user", "content": " ".join(WORDS[2:5])}]}] * 8
    made = steered(
        tmp_path,
        tools=[look],
        processing_class=calling(),
        train_dataset=Dataset.from_list(prompts),
        reward_funcs=one_after_the_other,
        off_policy="truncated_is",
        max_completion_length=3 * TURN,
        generation_kwargs={"max_new_tokens": TURN},
        max_tool_calling_iterations=1,
    )
    found = Watched(made)
    output = found.once()
    words = found.texts[0].split()
    assert words[: TURN + 1] == [LOOPING] * TURN + ["moon"], "steered, then the tool"
    assert words[TURN + 1 :], "then the model's own"
    assert words[TURN + 1 :] != [LOOPING] * TURN
    assert calls == [[True] + [False] * (GROUP - 1)]
    assert output["tool_mask"][0].tolist() == [1] * TURN + [0] + [1] * (output["tool_mask"].shape[1] - TURN - 1)
    assert output["steered_tokens"].tolist() == [TURN] + [0] * (GROUP - 1)
    assert found.gradient([0]).abs().max() > 0
