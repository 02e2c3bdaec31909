"""Write one self-contained HTML page about one or more runs: rates, curves, features and examples."""

from .page import write_report
from .run import Run, read_runs

__all__ = ["Run", "read_runs", "write_report"]
