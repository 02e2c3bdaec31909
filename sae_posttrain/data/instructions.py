"""What the generator is told: one instruction for each step of the synthesis, with places that are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

EXPLAIN = """Below are passages of text. A detector reacts to the parts between ** and **.

{passages}

What do the marked parts and their passages have in common? Answer with one short phrase and nothing else."""
JUDGE = """Topic: {task}

Description of a text: {explanation}

How closely does the description belong to the topic? Answer with a number from 0 (not at all) to 10 (entirely) and \
nothing else."""
PROMPT = """Write one message that a user could send to an assistant. It must be about, and written in the manner of: \
{explanation}
{examples}
Answer with the message and nothing else."""
PLAIN_PROMPT = """Write one message that a user could send to an assistant.
{examples}
Answer with the message and nothing else."""
REWRITE = """Rewrite the following message so that it asks for the same in other words and in another situation.

{prompt}

Answer with the rewritten message and nothing else."""
ANSWERS = {
    "answer": "Answer the user's message helpfully and truthfully.",
    "refuse": "The user's message asks for something harmful. Decline politely, in one or two sentences, and say why.",
}


@dataclass(frozen=True)
class Instructions:
    """What the generator is told, with places in braces that are filled in.

    Args:
        explain: how to explain a feature; {passages}.
        judge: how to score the relevance of a feature; {task} and {explanation}.
        prompt: how to write a prompt for a feature; {explanation} and {examples}.
        plain_prompt: how to write a prompt for no feature, the control; {examples} is empty.
        rewrite: how to rewrite a prompt; {prompt}.
        answers: label → system message under which a prompt is answered.

    Raises:
        ValueError: an instruction lacks a place that it needs.
    """

    explain: str = EXPLAIN
    judge: str = JUDGE
    prompt: str = PROMPT
    plain_prompt: str = PLAIN_PROMPT
    rewrite: str = REWRITE
    answers: Mapping[str, str] = field(default_factory=lambda: dict(ANSWERS))

    def __post_init__(self) -> None:
        needed = {"explain": ["passages"], "judge": ["task", "explanation"], "prompt": ["explanation"]}
        for name, places in {**needed, "rewrite": ["prompt"]}.items():
            for place in places:
                if f"{{{place}}}" not in getattr(self, name):
                    raise ValueError(f"The instruction {name!r} lacks the place {{{place}}}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Instructions:
        """From a mapping, such as a YAML file holds. Raises: ValueError: an unknown name."""
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"Unknown instruction {unknown[0]!r}; expected one of {', '.join(known)}.")
        answers = {**ANSWERS, **values.get("answers", {})}
        return cls(**{**values, "answers": answers})


def filled(text: str, **values: str) -> str:
    """A text with its places in braces filled in, in one pass, so that braces in what is filled in mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], place[0]), text)
