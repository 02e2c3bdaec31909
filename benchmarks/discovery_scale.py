"""Memory and time of discovery over a whole set of SAEs: 28 layers of 32K x 2048 in the Qwen-Scope layout, 15 GB.

    python benchmarks/discovery_scale.py

The files are written into a folder beside, of random weights, and removed again. The model has as many blocks of that
width, but small ones, so that what is measured is the work with the SAEs. Each case runs in a process of its own, on
files that are not in the page cache. Mapped pages of a file count as resident, but the system takes them back when it
needs them; what it cannot take back is counted apart. Linux only: it reads `/proc/self`.
"""

# K dictionary size, D model width

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import _rows
import torch
from _rows import Row
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain import discover_language_features, load_sae

K, D, LAYERS, ACTIVE = 32 * 1024, 2048, 28, 50
TEXTS, TOKENS = 8, 64  # of each of three languages
CASES = {"2 layers": (26, 27), "28 layers": tuple(range(LAYERS))}


def make_files(folder: Path) -> None:
    """Every layer in a file of its own; the same numbers, since only where they lie matters."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(K, D, generator=generator) / D**0.5,
        "W_dec": torch.randn(D, K, generator=generator) / D**0.5,
        "b_enc": torch.zeros(K),
        "b_dec": torch.zeros(D),
    }
    for layer in range(LAYERS):
        torch.save(tensors, folder / f"layer{layer}.sae.pt")


def forget(folder: Path) -> None:
    """Drop the files from the page cache, so that what is read comes from the disk."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_model() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    words = {f"w{number}": number for number in range(64)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = Qwen3Config(
        **{"vocab_size": 64, "hidden_size": D, "intermediate_size": 256, "num_hidden_layers": LAYERS},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "initializer_range": 0.1},
    )
    return Qwen3ForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0")


def texts(first: int) -> list[str]:
    return [" ".join(f"w{first + (7 * i + j * j) % 20}" for j in range(TOKENS)) for i in range(TEXTS)]


def run_case(case: str, folder: str) -> dict[str, float]:
    """Times, and growth of the peaks of memory over that of the process with its model."""
    model, tokenizer = make_model()
    layers, found = CASES[case], {}
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    before = memory()
    with peaks() as peak:
        started = time.perf_counter()
        saes = {layer: load_sae(folder, layer, k=ACTIVE) for layer in layers}
        found["time to load"] = time.perf_counter() - started
        languages = {"en": texts(1), "ru": texts(21), "zh": texts(41)}
        features = discover_language_features(model, tokenizer, saes, languages, layers=layers, progress=False)
        found["time of discovery, hashing of files included"] = time.perf_counter() - started - found["time to load"]
    assert len(features.layers) == len(layers)
    return {
        **found,
        "peak of own memory": peak["RssAnon"] - before["RssAnon"],
        "peak of resident memory, mapped files included": peak["VmRSS"] - before["VmRSS"],
    }


def memory() -> dict[str, int]:
    """Bytes resident in all, and those of them that are no file's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "RssAnon"))}


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The highest of `memory`, looked at a hundred times a second."""
    peak, done = memory(), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.update({name: max(value, peak[name]) for name, value in memory().items()})

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(run_case(*sys.argv[1:])))
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        make_files(Path(name))
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        rows = [Row("the files", "size", round(size / 1e6), "MB")]
        rows.append(Row("the texts", "tokens", 3 * TEXTS * TOKENS, "tokens"))
        for case in CASES:
            forget(Path(name))
            done = subprocess.run([sys.executable, __file__, case, name], check=True, stdout=subprocess.PIPE, text=True)
            for measure, value in json.loads(done.stdout).items():
                seconds = measure.startswith("time")
                rows.append(Row(case, measure, round(value if seconds else value / 1e6, 1), "s" if seconds else "MB"))
    for row in rows:
        print(f"{row.case:12}{row.measure:50}{row.value:12} {row.unit}")
    print(_rows.write("discovery_scale", rows))


if __name__ == "__main__":
    main()
