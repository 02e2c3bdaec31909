"""Write examples that should fire given features: explain each feature, then prompt, rewrite and answer by label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .generators import Generator, Messages, answers_in_order
from .instructions import Instructions, filled

ValuedPieces: TypeAlias = Sequence[tuple[str, float]]
"""A passage, cut into pieces of text, each with the feature's activation there."""

MARKED = 0.5
"""Pieces with at least this share of a passage's highest activation are marked for the explaining model."""


@dataclass(frozen=True)
class SynthesisTarget:
    """A feature that examples are wanted for.

    Args:
        layer, feature: where it is.
        explanation: what its passages share; empty for the control, whose prompts know of no feature.
        label: which of the instructions' answers its examples get.
        passages: texts that fire it, to be shown as examples.
    """

    layer: int
    feature: int
    explanation: str
    label: str = "answer"
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class SyntheticExample:
    """One written example.

    Args:
        target: what it was made for.
        prompt: the prompt, perhaps rewritten.
        plain: the prompt before rewriting.
        rewrite: 0 for the plain prompt itself, else the number of the rewrite.
        completion: the answer; empty if none was asked for.
    """

    target: SynthesisTarget
    prompt: str
    plain: str
    rewrite: int
    completion: str = ""


def explain_features(
    passages: Sequence[Sequence[ValuedPieces]], generate: Generator, instructions: Instructions | None = None
) -> list[str | None]:
    """Explain each feature in a short phrase, by showing its passages to the generator.

    Args:
        passages: for each feature the passages that excite it most, as `top_activations` finds them.
        generate: who answers.
        instructions: what the generator is told; default: in English, for any kind of text.

    Returns:
        For each feature its explanation, or None where there are no passages or no answer.

    Example:
        >>> explain_features([[[("the ", 0.0), ("cat", 3.0)]]], lambda chats: ["cats"])
        ['cats']

    Source: arXiv:2605.11887, section 3.2.
    """
    told = instructions or Instructions()
    shown = ["\n".join(f"{n}. {_marked(one)}" for n, one in enumerate(own, start=1)) for own in passages]
    chats = [_user(filled(told.explain, passages=text)) if text else None for text in shown]
    return _answers(generate, chats)


def judge_relevance(
    explanations: Sequence[str | None], task: str, generate: Generator, instructions: Instructions | None = None
) -> list[float | None]:
    """Score how relevant each explained feature is to a task, from 0 to 10, by asking the generator.

    Args:
        explanations: as `explain_features` returns them.
        task: what the data are for, such as "requests that an assistant must refuse".
        generate: who answers.
        instructions: what the generator is told.

    Returns:
        For each feature the first number in the answer, None where there is none from 0 to 10.

    Example:
        >>> judge_relevance(["cats", None], "animals", lambda chats: ["9"])
        [9.0, None]

    Source: arXiv:2605.11887, section 6, Eq. 19.
    """
    told = instructions or Instructions()
    chats = [None if one is None else _user(filled(told.judge, task=task, explanation=one)) for one in explanations]
    return [None if answer is None else _score(answer) for answer in _answers(generate, chats)]


def synthesize_examples(
    targets: Sequence[SynthesisTarget],
    generate: Generator,
    *,
    per_target: int = 4,
    rewrites: int = 0,
    examples: int = 0,
    answers: bool = True,
    instructions: Instructions | None = None,
) -> list[SyntheticExample]:
    """Write examples for features: a prompt from the explanation, rewrites of it, and an answer by label.

    Args:
        targets: the features, with explanations. A target without an explanation gets prompts that know of no feature:
            the control at an equal budget.
        generate: who writes.
        per_target: prompts for each target.
        rewrites: rewrites of each prompt, kept beside it.
        examples: how many of a target's passages are shown to the generator as examples.
        answers: whether prompts are answered.
        instructions: what the generator is told.

    Returns:
        The examples, in the order of the targets. What the generator failed to write is left out.

    Raises:
        ValueError: a number out of range, or a label without an instruction.

    Example:
        >>> target = SynthesisTarget(16, 7, "questions about cats")
        >>> [one.prompt for one in synthesize_examples([target], lambda chats: ["Why?"] * len(chats), per_target=1)]
        ['Why?']

    Source: arXiv:2605.11887, section 6, Eq. 21 and 22.
    """
    told = instructions or Instructions()
    if per_target < 1 or rewrites < 0 or examples < 0:
        raise ValueError(
            f"per_target={per_target}, rewrites={rewrites}, examples={examples}: expected at least 1, 0 and 0."
        )
    unknown = [one.label for one in targets if answers and one.label not in told.answers]
    if unknown:
        raise ValueError(f"No instruction for the label {unknown[0]!r}; there are {', '.join(told.answers)}.")
    wanted = [target for target in targets for _ in range(per_target)]
    plain = _answers(generate, [_user(_prompt_for(target, told, examples)) for target in wanted])
    written = [SyntheticExample(one, text, text, 0) for one, text in zip(wanted, plain, strict=True) if text]
    asked = [(one, number) for one in written for number in range(1, rewrites + 1)]
    rewritten = _answers(generate, [_user(filled(told.rewrite, prompt=one.plain)) for one, _ in asked])
    written += [
        SyntheticExample(one.target, text, one.plain, number)
        for (one, number), text in zip(asked, rewritten, strict=True)
        if text
    ]
    place = {id(target): number for number, target in enumerate(targets)}
    written.sort(key=lambda one: place[id(one.target)])
    return _answered(written, generate, told) if answers else written


def _answered(written: Sequence[SyntheticExample], generate: Generator, told: Instructions) -> list[SyntheticExample]:
    chats = [[{"role": "system", "content": told.answers[one.target.label]}, *_user(one.prompt)] for one in written]
    return [
        SyntheticExample(one.target, one.prompt, one.plain, one.rewrite, text)
        for one, text in zip(written, _answers(generate, chats), strict=True)
        if text
    ]


def _prompt_for(target: SynthesisTarget, told: Instructions, examples: int) -> str:
    if not target.explanation:
        return filled(told.plain_prompt, examples="")
    shown = "\n".join(f"- {text}" for text in target.passages[:examples])
    block = f"Texts of this kind:\n{shown}\n" if shown else ""
    return filled(told.prompt, explanation=target.explanation, examples=block)


def _answers(generate: Generator, chats: Sequence[Messages | None]) -> list[str | None]:
    """The cleaned answers to the chats that are not None. Raises: ValueError: as `answers_in_order`."""
    texts = iter(list(answers_in_order(generate, [chat for chat in chats if chat is not None])))
    return [None if chat is None else _cleaned(next(texts)) for chat in chats]


def _cleaned(text: str | None) -> str | None:
    """Without space and quotation marks around it; None if nothing is left."""
    text = (text or "").strip()
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'")}:
        text = text[1:-1].strip()
    return text or None


def _marked(pieces: ValuedPieces) -> str:
    """The passage in one line, with ** around the pieces at which the feature is most active."""
    bound = MARKED * max((value for _, value in pieces), default=0.0)
    text = "".join(f"**{piece}**" if value >= bound > 0 else piece for piece, value in pieces)
    return " ".join(text.replace("****", "").split())


def _score(answer: str) -> float | None:
    found = re.search(r"\d+(?:\.\d+)?", answer)
    return float(found[0]) if found and 0 <= float(found[0]) <= 10 else None


def _user(content: str) -> Messages:
    return [{"role": "user", "content": content}]
