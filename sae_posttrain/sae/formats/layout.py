"""How a format's tensors lie in its files: one table per format, which checks them and turns them our way."""

# D model width, K dictionary size

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .tensor_files import Tensors, check_keys, check_shapes, matrix_shape

Layout = Mapping[str, str]
"""A tensor's name in the file → the letters of its shape: `KD` or `DK` for a matrix, `K` or `D` for a vector, empty for
a single number. The first entry is a matrix: the sizes K and D are read off it."""

# nn.Linear keeps a row per output, so that an encoder lies as (K, D) and a decoder as (D, K).
LINEAR: Layout = {"encoder.weight": "KD", "decoder.weight": "DK"}
PLAIN: Layout = {"W_enc": "DK", "W_dec": "KD", "b_enc": "K", "b_dec": "D"}


def laid_out(path: Path, tensors: Tensors, layout: Layout, name: str) -> Tensors:
    """The tensors of a layout, all matrices as `(K, D)` views with one row per feature.

    Args:
        path: the file that they come from, for messages.
        tensors: as they lie in the file. Those that the layout does not name are ignored.
        layout: names and shapes.
        name: of the format, for messages.

    Raises:
        ValueError: a tensor is missing, is no plain numbers, or has another shape; a vector is not finite.
    """
    check_keys(path, tensors, list(layout), name)
    first = next(iter(layout))
    sizes = dict(zip(layout[first], matrix_shape(path, tensors, first), strict=True))
    shapes = {key: tuple(sizes[letter] for letter in letters) for key, letters in layout.items()}
    check_shapes(path, tensors, first, shapes, name)
    return {key: tensors[key].mT if letters == "DK" else tensors[key] for key, letters in layout.items()}
