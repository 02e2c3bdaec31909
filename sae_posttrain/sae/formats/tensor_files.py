"""Read untrusted files: memory-map and check them, and reject bad ones with a reason."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Tensors = dict[str, Tensor]

COMPUTABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CONFIG_BYTES = 10 * 2**20
INFLATION = 16  # weights hardly compress, so a higher ratio indicates a decompression bomb


def read_config(path: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is not a JSON object, is too large, or lacks a required key.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"{path} is {path.stat().st_size} bytes; a configuration has a few hundred")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not a JSON file ({error}); download it again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} contains a JSON {type(config).__name__}; expected an object of settings.")
    missing = [key for key in required if key not in config]
    if missing:
        raise ValueError(f"{path} lacks {missing}; it has {sorted(config)}.")
    return config


def number(config: Mapping[str, Any], key: str, path: Path, kind: type = int, least: float = 0) -> Any:
    """Read a setting that must be a number of at least `least`, and a whole number if `kind` is int."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 2**53:
        raise ValueError(f"{path}: {key} is {value!r}; expected a number of at least {least}.")
    if kind is int and value != int(value):
        raise ValueError(f"{path}: {key} is {value!r}; expected a whole number.")
    return kind(value)


def one_of(config: Mapping[str, Any], key: str, allowed: Mapping[Any, Any], path: Path, default: Any = None) -> Any:
    """Translate a setting by a table of the values that this library knows."""
    value = config.get(key, default)
    try:
        return allowed[value]
    except (KeyError, TypeError):
        raise ValueError(f"{path}: {key} is {value!r}; this library reads {', '.join(map(repr, allowed))}.") from None


def read_safetensors(path: Path, keys: Sequence[str] | None = None) -> Tensors:
    """Name → memory-mapped tensor, which is read on use: all tensors, or those of `keys` that exist."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if keys is None or key in keys}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, OverflowError) as error:
        raise damaged(path, "safetensors", error) from error


def read_pickle(path: Path, keys: Sequence[str], format_name: str) -> Tensors:
    """The memory-mapped dict of tensors in a PyTorch file. Files that would execute code are rejected."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: it contains something other than tensors, and loading it could run code. "
            f"Download the file again from its publisher. ({_first_line(error)})"
        ) from error
    except Exception as error:  # a damaged pickle can cause an error of any type
        raise damaged(path, "PyTorch", error) from error
    if not isinstance(tensors, dict):
        raise ValueError(
            f"{path} contains a {type(tensors).__name__}, but a {format_name} file contains the tensors {list(keys)}."
        )
    return {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}


def read_npz(path: Path, keys: Sequence[str]) -> Tensors:
    """The named arrays of an .npz file, memory-mapped if they are not compressed, as from `numpy.savez`."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            members = {name: archive.getinfo(f"{name}.npy") for name in keys if f"{name}.npy" in archive.namelist()}
            if sum(member.file_size for member in members.values()) > INFLATION * size + 2**20:
                raise ValueError(f"its arrays claim to be more than {INFLATION} times the file's {size} bytes")
            return {name: torch.from_numpy(_array(path, archive, member)) for name, member in members.items()}
    except Exception as error:
        raise damaged(path, ".npz", error) from error


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](file)
        length = file.tell()
    if dtype.hasobject or length + int(np.prod(shape, dtype=object)) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} does not hold the {shape} numbers it claims")
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    with path.open("rb") as raw:  # the name and extra fields before the data may differ from those in the directory
        raw.seek(member.header_offset + 26)
        lengths = raw.read(4)
    start = member.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    # Copy on write: torch needs writable memory, and the file is not changed.
    return np.memmap(path, dtype, "c", start + length, shape, "F" if fortran else "C")


def check_keys(path: Path, tensors: Tensors, keys: Sequence[str], format_name: str) -> None:
    """Check that every tensor is there, and holds plain numbers that are all stored in the file.

    Raises:
        ValueError: a tensor is missing, or is something else.
    """
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise ValueError(
            f"{path} contains {sorted(tensors)}, but a {format_name} file contains the tensors {list(keys)}: "
            f"{', '.join(missing)} not found."
        )
    for key in keys:
        tensor = tensors[key]
        # With a stride of zero, a few bytes could claim to be any number of rows.
        if (
            tensor.layout != torch.strided
            or tensor.device.type != "cpu"
            or not (tensor.dtype in COMPUTABLE or (tensor.numel() == 1 and not tensor.is_floating_point()))
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise ValueError(
                f"{path}: {key} is a {tensor.dtype} tensor {tuple(tensor.shape)} on {tensor.device} with strides "
                f"{tensor.stride() if tensor.layout == torch.strided else tensor.layout}; expected plain numbers "
                "in float16, bfloat16, float32 or float64."
            )


def check_shapes(path: Path, tensors: Tensors, first: str, expected: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Check that the shapes agree with each other, and that the small tensors are finite.

    Raises:
        ValueError: they do not, or are not.
    """
    for key, shape in expected.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(
                f"{path}: {key} has shape {tuple(tensors[key].shape)}, but {shape} was expected from {first} "
                f"{tuple(tensors[first].shape)}. The file is not in the {name} layout."
            )
        if len(shape) < 2 and not torch.isfinite(tensors[key]).all():
            raise ValueError(f"{path}: {key} contains numbers that are not finite. Download the file again.")


def matrix_shape(path: Path, tensors: Tensors, key: str) -> tuple[int, int]:
    """The two sizes of a matrix.

    Raises:
        ValueError: the tensor is not a matrix, or is empty.
    """
    shape = tuple(tensors[key].shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{path}: {key} has shape {shape}; expected a matrix of dictionary size by model width.")
    return shape


def row_norms(matrix_KD: Tensor) -> Tensor:
    """`(K,)` lengths that are never zero, in at least float32: float16 cannot represent the smallest of them."""
    exact = torch.promote_types(matrix_KD.dtype, torch.float32)
    norms_K: Tensor = torch.linalg.vector_norm(matrix_KD, dim=1, dtype=exact).clamp(min=1e-8)
    return norms_K


def check_k(k: int, d_sae: int) -> int:
    if not 1 <= k <= d_sae:
        raise ValueError(
            f"k={k} does not fit a dictionary of {d_sae} features; pass the k that the SAE was trained with."
        )
    return k


def no_k(k: int | None, format_name: str) -> None:
    if k is not None:
        raise ValueError(
            f"k={k} was passed, but a {format_name} SAE has no fixed number of active features; leave k out."
        )


def damaged(path: Path, kind: str, error: BaseException) -> ValueError:
    return ValueError(f"{path} is not a complete {kind} file ({_first_line(error)}); download it again.")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)
