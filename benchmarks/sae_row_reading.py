"""How much of an SAE file is read, and how much memory it takes, to get two features out of a 32K x 2048 layer.

    python benchmarks/sae_row_reading.py

Each case runs in its own process on a file that is not in the page cache. Linux only: it reads `/proc/self`.
"""

# K dictionary size, D model width

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _rows
import torch
from _rows import Row

from sae_posttrain import load_sae

K, D, LAYER = 32 * 1024, 2048, 27
FEATURES = [K // 3, K - 1]
CASES = ("open only", "2 encoder rows", "2 encoder rows and 2 directions", "whole file")


def make_file(folder: Path) -> Path:
    """A layer of the published size and layout. Its values do not matter, only that the file has no holes."""
    tensors = {
        "W_enc": torch.full((K, D), 0.5),
        "W_dec": torch.full((D, K), 0.5),
        "b_enc": torch.full((K,), 0.5),
        "b_dec": torch.full((D,), 0.5),
    }
    path = folder / f"layer{LAYER}.sae.pt"
    torch.save(tensors, path)
    os.sync()
    return path


def forget(path: Path) -> None:
    """Drop the file from the page cache, so that what is read comes from the disk and is counted."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_case(case: str, folder: str) -> dict[str, float]:
    """Bytes read from disk, growth of the peak memory and time, of this process for one case."""
    residual = torch.zeros(1, D)
    before, read_before, started = peak_bytes(), disk_bytes(), time.perf_counter()
    sae = load_sae(folder, LAYER, k=50, dtype=torch.float32 if case == "whole file" else None)
    if case == "whole file":
        sae.encoder.sum()
        sae.decoder.sum()
    elif case != "open only":
        sae.pre_activations(residual, FEATURES)
        if "directions" in case:
            sae.direction(FEATURES)
    return {
        "bytes read": disk_bytes() - read_before,
        "peak memory": peak_bytes() - before,
        "time": time.perf_counter() - started,
    }


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def disk_bytes() -> int:
    return int(Path("/proc/self/io").read_text(encoding="utf-8").split("read_bytes:")[1].split()[0])


def read_ahead_bytes(path: Path) -> float:
    """What the kernel fetches around each page that is asked for; it bounds how little can be read."""
    device = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for folder in (block, block.parent):  # a partition's queue is its disk's
        if (setting := folder / "queue" / "read_ahead_kb").exists():
            return int(setting.read_text(encoding="utf-8")) * 1024
    return float("nan")


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(run_case(*sys.argv[1:])))
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        path = make_file(Path(name))
        rows = [Row("the file", "size", round(path.stat().st_size / 1e6, 1), "MB")]
        rows.append(Row("the file", "read-ahead", round(read_ahead_bytes(path) / 1e6, 1), "MB"))
        for case in CASES:
            forget(path)
            done = subprocess.run([sys.executable, __file__, case, name], check=True, stdout=subprocess.PIPE, text=True)
            measured = json.loads(done.stdout)
            rows += [Row(case, key, round(measured[key] / 1e6, 1), "MB") for key in ("bytes read", "peak memory")]
            rows.append(Row(case, "time", round(measured["time"], 3), "s"))
    for row in rows:
        print(f"{row.case:34}{row.measure:14}{row.value:10} {row.unit}")
    print(_rows.write("sae_row_reading", rows))


if __name__ == "__main__":
    main()
