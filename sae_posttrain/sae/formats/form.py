"""The interface of a format's module, used by the code that finds and loads SAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from ..model import SparseAutoencoder
from .found import Found


class Format(Protocol):
    """A published SAE format. Every module in `FORMATS` is one; mypy checks that it is."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """The format's name, in messages and as `SparseAutoencoder.format`."""

    @property
    def FILES(self) -> str:  # noqa: N802
        """The names of the format's files, for the message that none were found."""

    @property
    def layer_of(self) -> Callable[[Path], int] | None:
        """A function that reads the layer from a settings file. None in formats whose settings do not contain it."""

    def find(self, names: Iterable[str], source: str) -> list[Found]:
        """The SAEs of this format among the files of a source.

        Args:
            names: paths of all files, relative to the source.
            source: folder, hub id or folder in a hub repository. Its name may contain the layer.
        """

    def load(self, weights: Path, config: Path | None, layer: int, source: str, k: int | None) -> SparseAutoencoder:
        """Load one SAE. The caller fills in its `source`, `file` and `format`.

        Args:
            weights: the file that `Found.weights` names, on this machine.
            config: the file that `Found.config` names; None in formats without one.
            layer: the requested layer, for formats whose settings do not contain it.
            source: the source that `find` was given.
            k: the number of active features that the user gave, if any.

        Raises:
            ValueError: a file is damaged, or this library cannot use such an SAE.
        """
