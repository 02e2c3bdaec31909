"""Prompts and completions as text, and which responses belong together."""

from __future__ import annotations

from sae_posttrain.metrics.messages import clusters_of, message_text, text_of


def test_reasoning_of_messages_is_put_between_tags() -> None:
    assert message_text({"role": "assistant", "content": "4"}) == "4"
    assert message_text({"content": "4", "reasoning_content": "2 + 2"}) == "<think>2 + 2</think>4"
    assert message_text({"content": None, "reasoning": "2 + 2"}, ("[", "]")) == "[2 + 2]"
    assert message_text({"content": "4", "reasoning_content": None}) == "4"
    blocks = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    assert message_text({"content": blocks}) == "a\nb"


def test_messages_of_one_role() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"content": "c"}]
    assert text_of(turns) == "a\nb\nc"
    assert text_of(turns, "assistant") == "b"
    assert text_of(None) == text_of([]) == ""


def test_responses_to_one_prompt_are_one_cluster_however_it_is_written() -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    rows = [{"prompt": "Hi"}, {"prompt": blocks}, {"prompt": "Bye"}, {"custom_id": "7"}, {"prompt": ""}, {}]
    assert clusters_of(rows) == ["Hi", "Hi", "Bye", "7", 4, 5]
