"""Damaged and malicious SAE files: each is refused with our error, or loads as what it holds.

    python tests/sae_fuzz.py

loads 1,000 files of every format, each format in a process of its own, and writes `benchmarks/results/sae_fuzz.csv`.
tests/sae/test_fuzz.py loads some of them every time. Linux only: it reads `/proc/self`.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_saes import ACTIVE, LAYER, PUBLISHED, D, Published, write_tensors
from safetensors.torch import load_file

import sae_posttrain
from sae_posttrain.sae import load_sae

FILES = 1000
SECONDS = 20  # for one file, of milliseconds that it takes
MEGABYTES = 300  # that one file may add to the peak of memory; each of them holds a few kilobytes
FORMATS: dict[str, Published] = {one.format: one for one in PUBLISHED.values()}
ODD: tuple[Any, ...] = (None, -1, 0, 1e308, float("nan"), "x", "", [], {}, True, 2**70, [[0]], "../../etc/passwd")

Mutation = Callable[[random.Random, Published, Path], None]


class Malicious:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def truncated(rng: random.Random, one: Published, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole))])


def flipped(rng: random.Random, one: Published, path: Path) -> None:
    """A few bits, most often where the file describes itself: at its beginning or, in a zip, its end."""
    content = bytearray(path.read_bytes())
    size = len(content)
    first, last = rng.choice([(0, 16), (0, min(size, 1500)), (max(0, size - 1500), size), (0, size)])
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        content[rng.randrange(first, min(last, size))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwritten(rng: random.Random, one: Published, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start, length = rng.randrange(len(content)), rng.choice((4, 8, 64, 512))
    content[start : start + length] = rng.choice((b"\0", b"\xff", rng.randbytes(1))) * length
    path.write_bytes(content)


def reshaped(rng: random.Random, one: Published, path: Path) -> None:
    tensors, name = dict(one.tensors), rng.choice(list(one.tensors))
    tensor = tensors[name]
    changes = [
        *(tensor.flatten(), tensor[None], tensor.mT.contiguous() if tensor.dim() > 1 else tensor[None, None]),
        *(tensor.new_zeros(0), tensor.new_zeros((0, D)), torch.zeros(()), torch.zeros(D + 1, D + 1)),
        torch.cat([tensor.reshape(1, -1) if tensor.dim() == 0 else tensor] * 2),
    ]
    tensors[name] = rng.choice(changes)
    if rng.random() < 0.2:
        del tensors[name]
    write_tensors(path, tensors)


def retyped(rng: random.Random, one: Published, path: Path) -> None:
    kinds = [torch.int64, torch.bool, torch.float16, torch.float64, torch.uint8, torch.complex64]
    tensors, name = dict(one.tensors), rng.choice(list(one.tensors))
    tensors[name] = tensors[name].to(rng.choice(kinds))
    write_tensors(path, tensors)


def not_a_number(rng: random.Random, one: Published, path: Path) -> None:
    tensors, name = dict(one.tensors), rng.choice(list(one.tensors))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = rng.choice((float("nan"), float("inf")))
    write_tensors(path, tensors)


def huge(rng: random.Random, one: Published, path: Path) -> None:
    """Sizes that only the description of the tensors has."""
    size = 2 ** rng.choice((20, 31, 33, 40, 62))
    name = rng.choice(list(one.tensors))
    if path.suffix == ".pt":
        rows = min(size, 2**40)
        fakes = torch.zeros(1).expand(rows, D), torch.empty(rows, D, device="meta"), torch.zeros(1).expand(2**30, 2**30)
        torch.save({**one.tensors, name: rng.choice(fakes)}, path)
    elif path.suffix == ".npz":
        _huge_npz(rng, one, path, name, size)
    else:
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        entry = header[name]
        entry["shape"] = rng.choice(([size, D], [size], [size, size]))
        if rng.random() < 0.5:
            entry["data_offsets"][1] = entry["data_offsets"][0] + 4 * size * D
        described = json.dumps(header).encode()
        length = len(described) if rng.random() < 0.8 else size
        path.write_bytes(struct.pack("<Q", length) + described + content[8 + struct.unpack("<Q", content[:8])[0] :])


def _huge_npz(rng: random.Random, one: Published, path: Path, name: str, size: int) -> None:
    if rng.random() < 0.3:  # what unpacks to far more than it is
        arrays = {other: tensor.numpy() for other, tensor in one.tensors.items()}
        np.savez_compressed(path, **{**arrays, name: np.zeros((2**24, D), np.float32)})
        return
    with zipfile.ZipFile(path) as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist()}
    described = members[f"{name}.npy"]
    shape = str(tuple(one.tensors[name].shape)).encode()
    members[f"{name}.npy"] = described.replace(shape, f"({size}, {D})".encode(), 1)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in members.items():
            archive.writestr(entry, content)


def replaced(rng: random.Random, one: Published, path: Path) -> None:
    """Another file altogether."""
    contents = [b"", b"\0" * 4096, b"version https://git-lfs.github.com/spec/v1\n", b"PK\x05\x06" + b"\0" * 18]
    contents += [b"<html>404</html>", rng.randbytes(5000), b"\x80\x04" + rng.randbytes(100)]
    path.write_bytes(rng.choice(contents))


def malicious(rng: random.Random, one: Published, path: Path) -> None:
    payload = {**one.tensors, rng.choice(("extra", *one.tensors)): Malicious(mark_of(path))}
    if rng.random() < 0.6:
        torch.save(payload, path)
    elif rng.random() < 0.5:
        path.write_bytes(pickle.dumps(payload, protocol=rng.choice((0, 2, 4))))
    else:
        array = np.array([Malicious(mark_of(path))], dtype=object)
        np.savez(path.with_suffix(".npz"), **dict.fromkeys(one.tensors, array))
        path.with_suffix(".npz").replace(path)


def misconfigured(rng: random.Random, one: Published, path: Path) -> None:
    """Settings of the wrong kind; where there are none, a bit is flipped instead."""
    if not one.config:
        flipped(rng, one, path)
        return
    file = next(
        path.parents[depth] / one.config[0] for depth in (0, 1) if (path.parents[depth] / one.config[0]).exists()
    )
    settings = copy.deepcopy(one.config[1])
    inner = rng.choice([settings, *(value for value in settings.values() if isinstance(value, dict))])
    for _ in range(rng.choice((1, 1, 2))):
        inner[rng.choice(list(inner))] = rng.choice(ODD)
    text = json.dumps(settings)
    raw = [text, text[: rng.randrange(len(text))], "[" * 200_000, "null", "[]", '{"a": ' * 50_000, "\ufeff" + text]
    file.write_text(rng.choice([text] * 12 + raw), encoding="utf-8")


MUTATIONS: tuple[Mutation, ...] = (
    *(truncated, flipped, flipped, flipped, overwritten, reshaped, retyped, not_a_number, huge, replaced),
    *(malicious, misconfigured),
)


def mark_of(path: Path) -> Path:
    return path.parent / "executed"


def outcome(one: Published, number: int, root: Path) -> tuple[str, str]:
    """What became of file `number` of a format: the mutation's name, and 'refused', 'loads' or a problem."""
    rng = random.Random(f"{one.format} {number}")
    mutate = MUTATIONS[number % len(MUTATIONS)]
    folder = root / f"set-L0_{ACTIVE}"
    shutil.rmtree(folder, ignore_errors=True)
    path = one.write(folder)
    mutate(rng, one, path)
    with _alarm(SECONDS):
        result = _load(one, folder, path, as_written=mutate not in (misconfigured, retyped))
    return mutate.__name__, "executed code" if mark_of(path).exists() else result


def _load(one: Published, folder: Path, path: Path, *, as_written: bool) -> str:
    try:
        sae = load_sae(folder, LAYER)
    except (ValueError, FileNotFoundError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        ours = raised_in.is_relative_to(Path(sae_posttrain.__file__).parent)
        return "refused" if ours else f"{type(error).__name__} of {raised_in.name}: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    residual_ND = torch.randn(4, sae.d_model, generator=torch.Generator().manual_seed(0))
    try:
        ours = sae.encode(residual_ND), sae.reconstruct(residual_ND)
        sae.direction(0)
        tensors = _reference(path) if as_written else None
        # Where numbers are not finite, or their publisher's arithmetic makes them so, ours is nobody's contract.
        if tensors and all((tensor.abs() < 1e6).all() for tensor in tensors.values()):
            for got, wanted in zip(ours, one.code(tensors, residual_ND), strict=True):
                if wanted.isfinite().all():
                    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    except BaseException as error:
        return f"loads, then {type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}"
    return "loads"


def _reference(path: Path) -> dict[str, torch.Tensor] | None:
    """What the file holds by the ordinary readers, without mapping; nothing where they refuse it over a checksum."""
    try:
        if path.suffix == ".pt":
            return torch.load(path, weights_only=True)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return load_file(path)
    except Exception:
        return None


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_format(name: str, start: int) -> None:
    """Load the files of one format from `start` on; a line of JSON for each, so that a crash leaves the others."""
    one = FORMATS[name]
    with tempfile.TemporaryDirectory() as root:
        one.write(Path(root) / f"set-L0_{ACTIVE}")
        _load(one, Path(root) / f"set-L0_{ACTIVE}", Path(root), as_written=False)  # the libraries' own memory
        for number in range(start, FILES):
            before = peak_megabytes()
            mutation, result = outcome(one, number, Path(root))
            grown = peak_megabytes() - before
            if result in ("refused", "loads") and grown > MEGABYTES:
                result = f"{result}, but took {grown:.0f} MB"
            print(json.dumps([number, mutation, result, grown]), flush=True)


def run_all(name: str) -> list[tuple[str, str, float]]:
    """Outcomes of all files of a format; a crash of the process is one of them."""
    found: list[Any] = []
    while len(found) < FILES:
        command = [sys.executable, __file__, name, str(len(found))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        found += [json.loads(line)[1:] for line in done.stdout.splitlines()]
        if len(found) < FILES:
            print(done.stderr[-2000:], file=sys.stderr)
            mutation = MUTATIONS[len(found) % len(MUTATIONS)].__name__
            found.append([mutation, f"crash, exit {done.returncode}", 0.0])
    return [tuple(one) for one in found]


def main() -> None:
    if len(sys.argv) == 3:
        run_format(sys.argv[1], int(sys.argv[2]))
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import _rows

    rows = []
    for name in FORMATS:
        outcomes = run_all(name)
        counts = Counter(result if result in ("refused", "loads") else "problem" for _, result, _ in outcomes)
        rows += [_rows.Row(name, kind, counts[kind], "files") for kind in ("refused", "loads", "problem")]
        rows.append(_rows.Row(name, "largest growth of peak memory", round(max(g for *_, g in outcomes), 1), "MB"))
        print(name, dict(counts), flush=True)
        for mutation, result, _ in outcomes:
            if result not in ("refused", "loads"):
                print("  ", mutation, result)
    print(_rows.write("sae_fuzz", rows))


if __name__ == "__main__":
    main()
