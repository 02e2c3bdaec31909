"""What every test gets: no network, and the same random numbers each time."""

import gc
import os
import socket
import tempfile
from typing import Any

import pytest

# A home of the tests' own: they leave nothing in the user's caches, nor do the processes they start.
os.environ.update(HF_HOME=tempfile.mkdtemp(prefix="sae-posttrain-tests-"))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# Two workers with two threads each spend most of their time waiting for one another: four times as long in all.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-exactness", action="store_true", help="put what the SASFT tests measure into docs/exactness.md"
    )


def pytest_collection_finish() -> None:
    """Set the libraries' own objects aside: each `Trainer.train` begins with a full garbage collection, and going over
    them takes longer than a step of these models."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address}; tests run offline, so make the file it needs")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
