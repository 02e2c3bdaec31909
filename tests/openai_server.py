"""A server on this machine that speaks OpenAI's protocol, and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""A status, and the JSON of the answer; or its bytes, such as those of a web page."""


@dataclass
class FakeServer:
    """What was asked, and how it is answered.

    Args:
        answer: function from the path and the body of a request to its answer.
        headers: of all requests, those for pages too.
        models: names of the models in `/v1/models`, or the bytes of that page; None: the page does not exist.
    """

    answer: Callable[[str, dict[str, Any]], Answer]
    models: list[str] | bytes | None = field(default_factory=lambda: ["tiny"])
    owner: str = "vllm"
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str) -> Answer:
        if path == "/v1/models" and self.models is not None:
            if isinstance(self.models, bytes):
                return 200, self.models
            return 200, {"object": "list", "data": [_model(name, self.owner) for name in self.models]}
        return (200, {"version": "9.9"}) if path == "/version" else (404, {"error": {"message": "no such page"}})

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        with self.lock:
            self.asked.append((path, body))
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return self.answer(path, body)
        finally:
            with self.lock:
                self.at_once -= 1


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def chat(text: str, finish_reason: str = "stop", tokens: int = 3, **message: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish_reason}
    return {
        **{"id": "1", "object": "chat.completion", "created": 0, "model": "tiny"},
        "choices": [{**choice, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1},
    }


def completion(text: str, ids: list[int] | None = None) -> dict[str, Any]:
    """A text completion."""
    return {
        **{"id": "1", "object": "text_completion", "created": 0, "model": "tiny"},
        "choices": [{"index": 0, "finish_reason": "length", "text": text, "token_ids": ids}],
    }


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


@contextmanager
def served(server: FakeServer, port: int = 0) -> Iterator[FakeServer]:
    """The server, listening inside the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self._reply(server.get(self.path))

        def do_POST(self) -> None:
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(server.post(self.path, body))

        def _reply(self, answer: Answer) -> None:
            status, found = answer
            if status == 0:  # the connection breaks
                self.close_connection = True
                return
            raw = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if raw.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that went away is what some tests are about."""

    listening = Listening(("127.0.0.1", port), Handler)
    server.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
