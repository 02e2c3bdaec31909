"""How the system should read a memory-mapped tensor."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def read_without_ahead(tensor: Tensor) -> Iterator[None]:
    """While a mapped tensor is read in scattered places, have the system fetch the pages touched, none around them.

    One decoder direction in the Qwen-Scope layout is a column; each of its numbers lies in another row, and
    read-ahead around every one of them would fetch the whole matrix. For memory that is no file's, and on systems
    without such advice, nothing changes.
    """
    if not hasattr(mmap, "MADV_RANDOM") or tensor.device.type != "cpu":
        yield
        return
    storage = tensor.untyped_storage()
    start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = ctypes.c_void_p(start), ctypes.c_size_t(max(0, storage.data_ptr() + storage.nbytes() - start))
    system = ctypes.CDLL(None)
    system.madvise(*pages, mmap.MADV_RANDOM)
    try:
        yield
    finally:
        system.madvise(*pages, mmap.MADV_NORMAL)
