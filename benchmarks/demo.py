"""How long `sae-posttrain demo` takes, alone and beside one busy process, and how much each of its processes computes.

    python benchmarks/demo.py [--alone] [--load TEXT]

The wall time depends on what else the machine does. What two idle cores need at least is the computing of the longest
chain: the command's own process and the busier of its workers. --load says what else ran; --alone leaves the second run
out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil
from _rows import Row, write

STAGE = re.compile(r"\[ *\d+ s\] (\d/3 .*)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true", help="only the run without a busy process beside it")
    parser.add_argument("--load", default="nothing else", help="what else the machine did, for the rows")
    args = parser.parse_args()
    rows = measure(f"beside {args.load}")
    if not args.alone:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            rows += measure(f"beside {args.load} and one busy process")
        finally:
            busy.kill()
    print(f"Wrote {write('demo', rows)}")


def measure(case: str) -> list[Row]:
    """Run the demo once: wall time and computing, of the whole and by stage, and the longest chain."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "sae_posttrain", "demo", "--output", str(Path(scratch, "demo"))]
        start = time.monotonic()
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        computed = Computed(psutil.Process(running.pid))
        marks: list[tuple[str, float, float]] = [("start", 0.0, 0.0)]
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            if found := STAGE.match(line):
                marks.append((found[1], time.monotonic() - start, computed.total()))
        if running.wait() != 0:
            raise RuntimeError(f"The demo ended with exit code {running.returncode}.")
    marks.append(("end", time.monotonic() - start, computed.total()))
    rows = [Row(case, "whole, wall time", marks[-1][1], "s"), Row(case, "whole, computing", marks[-1][2], "s")]
    rows.append(Row(case, "longest chain, computing", computed.longest_chain(), "s"))
    for (stage, begun, before), (_, ended, after) in pairwise(marks):
        rows.append(Row(case, f"{stage}, wall time", ended - begun, "s"))
        rows.append(Row(case, f"{stage}, computing", after - before, "s"))
    return rows


class Computed:
    """User and system seconds of a process and of those that it starts, read twice a second until it ends."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.seconds: dict[int, float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def total(self) -> float:
        """Of all of them."""
        return sum(self.seconds.values())

    def longest_chain(self) -> float:
        """Of the process itself and of the one that it started and that computed most."""
        own = self.seconds.get(self.process.pid, 0.0)
        return own + max((seconds for pid, seconds in self.seconds.items() if pid != self.process.pid), default=0.0)

    def _watch(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            for one in [self.process, *self.process.children(recursive=True)]:
                try:
                    used = one.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self.seconds[one.pid] = used.user + used.system
            time.sleep(0.5)


if __name__ == "__main__":
    main()
