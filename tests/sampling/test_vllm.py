"""Sampling with a real vLLM, in this process and as a server on this machine: `nox -s vllm` runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sae_posttrain.metrics import repetition_rate
from sae_posttrain.sampling import (
    Endpoint,
    FailedSample,
    Response,
    SamplingSettings,
    ServerEngine,
    TransformersEngine,
    sample_run,
)
from sae_posttrain.texts import load_rows

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789是中文好的абвгдежзик"
PROMPTS = [LETTERS[start : start + 1 + start % 5] for start in range(0, 75, 6)]
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}{% if think %}Z{% endif %}"
GREEDY = SamplingSettings(0.0, 1.0, 48)
CONTEXT = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with heads of a size that vLLM's attention takes, its tokenizer, and a LoRA adapter for it."""
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("vllm")
    backend = Tokenizer(
        models.WordLevel({token: at for at, token in enumerate(["<pad>", *LETTERS])}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", chat_template=CHAT)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.2}
    ends = {"eos_token_id": 3, "bos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": False}
    model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**size, **heads, **ends, max_position_embeddings=CONTEXT))
    model.generation_config = tf.GenerationConfig(
        eos_token_id=[3, 4], do_sample=True, top_k=1, temperature=0.1, repetition_penalty=3.0
    )
    model.save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(path / "adapter")
    return path


@pytest.fixture(scope="module", autouse=True)
def on_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patched.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patched.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield


OPTIONS = {"enforce_eager": True, "max_model_len": CONTEXT, "max_num_seqs": 64}


@pytest.fixture(scope="module")
def vllm(folder: Path, on_cpu: None) -> Any:
    from sae_posttrain.sampling.vllm import VllmEngine

    return VllmEngine(str(folder / "model"), dtype="float32", chat=False, options=OPTIONS)


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersEngine:
    model = tf.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    return TransformersEngine(model, tf.AutoTokenizer.from_pretrained(folder / "model"), batch_size=64)


# The command `vllm`, which asks for the version of the package `vllm`, also in the package `vllm-cpu`.
SERVE = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def server(folder: Path, on_cpu: None) -> Iterator[Endpoint]:
    """`vllm serve` on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(folder / "model")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "64", "--enforce-eager"]
    log = (folder / "server.log").open("w", encoding="utf-8")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ), start_new_session=True)
    try:
        until = time.monotonic() + 900
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail((folder / "server.log").read_text(encoding="utf-8")[-3000:])
            time.sleep(1)
        yield Endpoint(f"http://127.0.0.1:{port}/v1", "tiny", concurrency=64)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        log.close()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def answers(engine: Any, settings: SamplingSettings = GREEDY, samples: int = 1) -> list[list[Response]]:
    run = sample_run(engine, PROMPTS, settings, samples=samples, progress=False)
    assert not run.failures
    return run.in_order()


def ids(found: list[list[Response]]) -> list[list[tuple[int, ...]]]:
    return [[one.ids for one in responses] for responses in found]


def assert_alike(found: list[list[Response]], expected: list[list[Response]]) -> None:
    """The same tokens, texts, ends and lengths, and so the same rates."""
    assert ids(found) == ids(expected)
    told = [
        [[(one.text, one.finish_reason, one.tokens) for one in some] for some in both] for both in (found, expected)
    ]
    assert told[0] == told[1]
    reports = [
        repetition_rate([one.text for some in both for one in some], ended=[one.ended for some in both for one in some])
        for both in (found, expected)
    ]
    assert reports[0].to_dict() == reports[1].to_dict()


def test_vllm_in_process_gives_the_tokens_of_transformers(vllm: Any, reference: TransformersEngine) -> None:
    expected = answers(reference)
    assert_alike(answers(vllm), expected)
    assert {one.finish_reason for (one,) in expected} == {"stop", "length"}, "both ways to end are compared"
    assert all((one.engine or "").startswith("vllm 0.") for (one,) in answers(vllm))


def test_vllm_serve_gives_the_tokens_of_transformers(server: Endpoint, reference: TransformersEngine) -> None:
    found = answers(ServerEngine(server, chat=False))
    assert_alike(found, answers(reference))
    assert all((one.engine or "").startswith("vllm 0.") for (one,) in found)


def test_a_chat_with_a_system_message_and_template_values(
    server: Endpoint, vllm: Any, reference: TransformersEngine
) -> None:
    settings = SamplingSettings(0.0, 1.0, 16, system="Q", chat_template_args={"think": True}, stop=("e", "是"))
    reference.chat = vllm.chat = True
    try:
        expected = answers(reference, settings)
        assert_alike(answers(vllm, settings), expected)
        found = answers(ServerEngine(server), settings)
    finally:
        reference.chat = vllm.chat = False
    assert ids(found) == ids(expected)
    assert [one.text for (one,) in found] == [one.text for (one,) in expected]
    assert any(one.finish_reason == "stop" for (one,) in expected)


def test_the_models_own_defaults_change_nothing(server: Endpoint, vllm: Any) -> None:
    """Its generation config asks for top_k 1 and a penalty: samples of one prompt would be equal."""
    settings = SamplingSettings(1.5, 1.0, 12)
    for engine in (vllm, ServerEngine(server, chat=False)):
        found = answers(engine, settings, samples=4)
        assert all(len(set(some)) == 4 for some in ids(found))
        assert ids(answers(engine, settings, samples=4)) == ids(found), "seeds of their own"


def test_a_prompt_that_is_too_long_fails_alone(server: Endpoint, vllm: Any) -> None:
    prompts = ["a", "b" * 400, "c"]
    for engine in (vllm, ServerEngine(server, chat=False)):
        run = sample_run(engine, prompts, GREEDY, samples=1, progress=False)
        assert list(run.failures) == [(1, 0)]
        assert run.count() == 2
        assert FailedSample(run.failures[1, 0]).error


def test_a_lora_adapter_takes_part(folder: Path, reference: TransformersEngine) -> None:
    from peft import PeftModel

    from sae_posttrain.sampling.vllm import VllmEngine

    engine = VllmEngine(str(folder / "model"), str(folder / "adapter"), "float32", chat=False, options=OPTIONS)
    plain = answers(reference)
    adapted: Any = PeftModel.from_pretrained(reference.model, folder / "adapter")
    expected = answers(TransformersEngine(adapted, reference.tokenizer, batch_size=64))
    adapted.unload()
    assert ids(expected) != ids(plain)
    assert_alike(answers(engine), expected)


def test_the_command_steers_with_vllm_as_with_transformers(folder: Path, tmp_path: Path) -> None:
    """Each in a process of its own, since vLLM loads its plugins once in a process."""
    from steering_cases import feature_set

    feature_set(64, 4).save(tmp_path / "features.safetensors")
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {}
    for name, more in {
        "plain": [],
        "transformers": ["--features", str(tmp_path / "features.safetensors"), "--alpha", "3"],
        "vllm": [
            *["--features", str(tmp_path / "features.safetensors"), "--alpha", "3", "--engine", "vllm"],
            *["--vllm-args", "enforce_eager=true", f"max_model_len={CONTEXT}"],
        ],
    }.items():
        command = [sys.executable, "-m", "sae_posttrain", "measure", "repetition", "--model", str(folder / "model")]
        command += ["--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(tmp_path / f"{name}.jsonl")]
        command += ["--temperature", "0", "--max-new-tokens", "24", "--dtype", "float32", "--no-chat", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = [{**row, "engine": ""} for row in load_rows(tmp_path / f"{name}.jsonl")]
    assert found["vllm"] == found["transformers"] != found["plain"]
