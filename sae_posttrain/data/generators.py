"""Who writes the texts: a model behind a server, or any Python function. The answers may be kept in a file."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..metrics.thinking import Thinking
from ..sampling import Endpoint, FailedSample, Response, SamplingProgress, SamplingSettings, ServerEngine
from ..sampling.kept import drop_half_a_line
from ..sampling.requests import requests_for

logger = logging.getLogger(__name__)

Messages: TypeAlias = list[dict[str, str]]
"""A chat: messages with `role` and `content`."""

Generator: TypeAlias = Callable[[Sequence[Messages]], Iterable[str | None]]
"""Answers each chat, in order, with a text, or with None where that failed. It may yield its answers one by one."""

KEPT_AT_ONCE = 64
"""Chats that a Python function is given in one call, after which its answers are kept."""


def server_generator(endpoint: Endpoint, settings: SamplingSettings, *, first: int = 0) -> Generator:
    """A generator that asks a server with OpenAI's protocol, many requests at once, and shows its progress.

    Args:
        endpoint: the server; it bounds the number of requests under way, and names the variable that holds the key.
        settings: how answers are sampled.
        first: number of the first request, from which its random seed follows: a run that goes on must not use the
            numbers of the answers that are there.

    Returns:
        The generator. It yields each answer as soon as those before it are there. A chat that the server refuses, or
        answers with nothing, is answered with None, and the log says why.

    Example:
        >>> generate = server_generator(Endpoint("http://localhost:8000/v1", "judge"), SamplingSettings())
        >>> list(generate([[{"role": "user", "content": "Say hello."}]]))
        ['Hello.']
    """
    asked = first

    def generate(chats: Sequence[Messages]) -> Iterator[str | None]:
        nonlocal asked
        # Numbers count on from call to call, so that a chat that is asked again gets another answer.
        requests = requests_for([list(chat) for chat in chats], settings, 1, range(asked, asked + len(chats)))
        asked += len(chats)
        waiting: dict[int, Response | FailedSample] = {}
        errors: list[str] = []
        due = 0
        with SamplingProgress(len(requests), settings.max_new_tokens, "answers") as progress:
            for group in ServerEngine(endpoint).sample(requests, settings, progress=progress):
                waiting.update(group)
                while due in waiting:
                    answer = waiting.pop(due)
                    due += 1
                    error = answer.error if isinstance(answer, FailedSample) else _emptiness(answer)
                    errors += [error] if error else []
                    yield None if error or isinstance(answer, FailedSample) else answer.text
        if errors:
            logger.warning("The server failed on %d of %d requests. The first error: %s", len(errors), due, errors[0])

    return generate


def _emptiness(answer: Response) -> str:
    if _without_thinking(answer.text):
        return ""
    limit = " It ended at the token limit, perhaps while the model was thinking." * (answer.finish_reason == "length")
    return f"The answer is empty.{limit}"


def _without_thinking(text: str) -> str | None:
    """The answer of a reasoning model; None if nothing but thinking or space is there."""
    answer = Thinking("strip").read(text, joined=True)
    return answer if answer.strip() else None


def load_generator(name: str) -> Generator:
    """The Python function that `package.module:function` names; it must be a `Generator`.

    Raises:
        ValueError: the name has another form, or there is no such function.

    Example:
        >>> load_generator("json:loads").__name__
        'loads'
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


def kept_answers(
    generate: Generator,
    path: str | Path,
    about: Mapping[str, Any] | None = None,
    *,
    at_once: int | None = KEPT_AT_ONCE,
) -> Generator:
    """The same generator, but with its answers kept in a file: a second run asks only what is not there yet.

    A chat that is asked several times gets an answer for each time. Failures are not kept, so they are asked again.

    Args:
        generate: who answers. What it yields is written to the file at once.
        path: a .jsonl file. It is made if it does not exist, and continued if it does.
        about: what the answers depend on besides the chat, such as the model's name and the temperature. Answers that
            were kept with other values are not used. Default: the chat alone decides.
        at_once: chats in one call of the generator. None: all of them, for a generator that yields.

    Raises:
        ValueError: a line of the file is no answer. A last line that was not written to its end is cut instead.

    Example:
        >>> generate = kept_answers(lambda chats: ["Hello."] * len(chats), "answers.jsonl")
        >>> generate([[{"role": "user", "content": "Say hello."}]])  # the second time from the file
        ['Hello.']
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
        path.parent.mkdir(parents=True, exist_ok=True)
        step = at_once or max(1, len(new))
        for start in range(0, len(new), step):
            places = new[start : start + step]
            with path.open("a", encoding="utf-8") as file:
                texts = answers_in_order(generate, [chats[place] for place in places])
                for place, text in zip(places, texts, strict=True):
                    if text is not None:
                        known[keys[place]] = text
                        file.write(json.dumps({"chat": keys[place], "answer": text}, ensure_ascii=True) + "\n")
                        file.flush()  # nothing waits in a buffer when the process is killed
        return [known.get(key) for key in keys]

    return answer


def answers_in_order(generate: Generator, chats: Sequence[Messages]) -> Iterator[str | None]:
    """The answers of a generator, one by one, without thinking; None for an answer that is empty.

    Raises:
        ValueError: there are more or fewer answers than chats, or one is no text.
    """
    count = 0
    for text in generate(chats) if chats else ():
        count += 1
        if text is not None and not isinstance(text, str):
            raise ValueError(f"The generator answered chat {count} with a {type(text).__name__}; expected a text.")
        if count <= len(chats):
            yield None if text is None else _without_thinking(text)
    if count != len(chats):
        raise ValueError(f"The generator gave {count} answers to {len(chats)} chats; expected one for each.")


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
