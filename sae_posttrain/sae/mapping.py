"""How the system should read a memory-mapped tensor."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor


def read_without_ahead(tensor: Tensor) -> None:
    """Tell the system that a mapped tensor is read in scattered places: fetch the pages touched, none around them.

    One decoder direction in the Qwen-Scope layout is a column; each of its numbers lies in another row, and
    read-ahead around every one of them would fetch the whole matrix. Does nothing where there is no such advice.
    """
    if not hasattr(mmap, "MADV_RANDOM") or tensor.device.type != "cpu":
        return
    storage = tensor.untyped_storage()
    start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = storage.data_ptr() + storage.nbytes() - start
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_RANDOM)
