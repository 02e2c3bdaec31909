"""What the tests with a real vLLM share: a tiny model that it can run, and its server on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sae_posttrain.sampling import Endpoint

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789是中文好的абвгдежзик"
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}{% if think %}Z{% endif %}"
CONTEXT = 256
WIDTH, BLOCKS = 64, 4
OPTIONS = {"enforce_eager": True, "max_model_len": CONTEXT, "max_num_seqs": 64}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Environment variables for vLLM's CPU build."""


def save_model(path: Path, spread: float = 0.2) -> None:
    """Save a random model with heads that vLLM's attention takes, its tokenizer, and a LoRA adapter for it.

    Args:
        path: folder for `model` and `adapter`.
        spread: standard deviation of the weights; with small ones greedy responses loop.
    """
    from peft import LoraConfig, get_peft_model

    backend = Tokenizer(
        models.WordLevel({token: at for at, token in enumerate(["<pad>", *LETTERS])}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", chat_template=CHAT)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": BLOCKS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": spread}
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


# The command `vllm`, which asks for the version of the package `vllm`, also in the package `vllm-cpu`.
SERVE = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Endpoint]:
    """`vllm serve` on a free port of this machine, with environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(folder / "model")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "64", "--enforce-eager"]
    log = (folder / "server.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env={**os.environ, **ON_CPU, **variables}, start_new_session=True
    )
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
