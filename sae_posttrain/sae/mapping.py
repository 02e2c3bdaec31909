"""Advise the operating system how a memory-mapped tensor will be read."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def read_without_ahead(tensor: Tensor) -> Iterator[None]:
    """Switch off read-ahead for a memory-mapped tensor that is read at scattered places inside the block.

    A decoder direction in the Qwen-Scope layout is a column. Each of its numbers is in another row, so reading ahead
    around every number would read the whole matrix. Nothing changes for ordinary memory, and on systems that do not
    accept this advice.
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
