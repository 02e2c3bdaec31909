"""The world of these tests, piece by piece and whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sae_posttrain import FeatureSet

from .world import World, build_features, build_model, build_rows, build_tokenizer, build_world


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-exactness"):
        from .exactness_table import write_tables

        write_tables()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def make_model(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Qwen3ForCausalLM]:
    return partial(build_model, tokenizer)


@pytest.fixture(scope="session")
def features() -> FeatureSet:
    return build_features()


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return build_rows()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path)
