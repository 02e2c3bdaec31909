"""The tensors of a format: one table of names and shapes per format, used to check and transpose them."""

# D model width, K dictionary size

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .tensor_files import Tensors, check_keys, check_shapes, matrix_shape

Layout = Mapping[str, str]
"""A tensor's name in the file → the letters of its shape: `KD` or `DK` for a matrix, `K` or `D` for a vector, empty for
a single number. The first entry is a matrix, which determines the sizes K and D."""

# nn.Linear has one row per output, so an encoder is stored as (K, D) and a decoder as (D, K).
LINEAR: Layout = {"encoder.weight": "KD", "decoder.weight": "DK"}
PLAIN: Layout = {"W_enc": "DK", "W_dec": "KD", "b_enc": "K", "b_dec": "D"}


def laid_out(path: Path, tensors: Tensors, layout: Layout, name: str) -> Tensors:
    """The tensors of a layout, all matrices as `(K, D)` views with one row per feature.

    Args:
        path: the file that they come from, for messages.
        tensors: as stored in the file. Tensors that the layout does not name are ignored.
        layout: names and shapes.
        name: the format's name, for messages.

    Raises:
        ValueError: a tensor is missing, does not hold plain numbers, or has another shape; or a vector is not finite.
    """
    check_keys(path, tensors, list(layout), name)
    first = next(iter(layout))
    sizes = dict(zip(layout[first], matrix_shape(path, tensors, first), strict=True))
    shapes = {key: tuple(sizes[letter] for letter in letters) for key, letters in layout.items()}
    check_shapes(path, tensors, first, shapes, name)
    return {key: tensors[key].mT if letters == "DK" else tensors[key] for key, letters in layout.items()}
