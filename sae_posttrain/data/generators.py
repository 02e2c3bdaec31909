"""Who writes the texts: a model behind a server, or any Python function. The answers may be kept in a file."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ..sampling import Endpoint, FailedSample, SamplingSettings, ask_server
from ..sampling.kept import drop_half_a_line

Messages: TypeAlias = list[dict[str, str]]
"""A chat: messages with `role` and `content`."""

Generator: TypeAlias = Callable[[Sequence[Messages]], Sequence[str | None]]
"""Answers each chat with a text, or with None where that failed."""

KEPT_AT_ONCE = 64
"""Requests whose answers are written together; what is asked again after an interruption."""


def server_generator(endpoint: Endpoint, settings: SamplingSettings) -> Generator:
    """A generator that asks a server with OpenAI's protocol, many requests at once.

    Args:
        endpoint: the server; it bounds the number of requests under way, and names the variable that holds the key.
        settings: how answers are sampled.

    Returns:
        The generator. A chat that the server refuses is answered with None.

    Example:
        >>> generate = server_generator(Endpoint("http://localhost:8000/v1", "judge"), SamplingSettings())
        >>> generate([[{"role": "user", "content": "Say hello."}]])
        ['Hello.']
    """

    asked = 0

    def generate(chats: Sequence[Messages]) -> list[str | None]:
        nonlocal asked
        # Seeds count on from call to call, so that a chat that is asked again gets another answer.
        answers = ask_server(endpoint, [list(chat) for chat in chats], replace(settings, seed=settings.seed + asked))
        asked += len(chats)
        return [None if isinstance(one, FailedSample) else one.text for one in answers]

    return generate


def load_generator(name: str) -> Generator:
    """The Python function that `package.module:function` names; it must be a `Generator`.

    Raises:
        ValueError: the name has another form, or there is no such function.
    """
    module_name, separator, function_name = name.partition(":")
    if not separator or not function_name:
        raise ValueError(f"{name!r}: expected a Python function as package.module:function.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{name!r}: cannot import {module_name} ({error}).") from error
    found = getattr(module, function_name, None)
    if not callable(found):
        raise ValueError(f"{name!r}: {module_name} has no function {function_name!r}.")
    generator: Generator = found
    return generator


def kept_answers(generate: Generator, path: str | Path, about: Mapping[str, Any] | None = None) -> Generator:
    """The same generator, but with its answers kept in a file: a second run asks only what is not there yet.

    A chat that is asked several times gets an answer for each time. Failures are not kept, so they are asked again.

    Args:
        generate: who answers.
        path: a .jsonl file. It is made if it does not exist, and continued if it does.
        about: what the answers depend on besides the chat, such as the model's name and the temperature. Answers that
            were kept with other values are not used. Default: the chat alone decides.

    Raises:
        ValueError: a line of the file is no answer. A last line that was not written to its end is cut instead.
    """
    path = Path(path)
    known = _read(path)
    asked_of = json.dumps(about, sort_keys=True) if about else ""

    def answer(chats: Sequence[Messages]) -> list[str | None]:
        times: Counter[str] = Counter()
        keys = []
        for chat in chats:
            chat_hash = hashlib.sha256((json.dumps(chat, sort_keys=True) + asked_of).encode()).hexdigest()
            times[chat_hash] += 1
            keys.append(f"{chat_hash} {times[chat_hash]}")
        new = [place for place, key in enumerate(keys) if key not in known]
        for start in range(0, len(new), KEPT_AT_ONCE):
            places = new[start : start + KEPT_AT_ONCE]
            texts = generate([chats[place] for place in places])
            if len(texts) != len(places):
                raise ValueError(
                    f"The generator gave {len(texts)} answers to {len(places)} chats; expected one for each."
                )
            found = {keys[place]: text for place, text in zip(places, texts, strict=True) if text is not None}
            known.update(found)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                for key, text in found.items():
                    file.write(json.dumps({"chat": key, "answer": text}, ensure_ascii=True) + "\n")
        return [known.get(key) for key in keys]

    return answer


def count_kept(path: str | Path) -> int:
    """How many answers a file of `kept_answers` holds; 0 if it does not exist. Raises: ValueError: as there."""
    return len(_read(Path(path)))


def _read(path: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    if path.exists():
        drop_half_a_line(path)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                known[str(row["chat"])] = str(row["answer"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}, is no answer of a generator ({error}); delete it.") from error
    return known
