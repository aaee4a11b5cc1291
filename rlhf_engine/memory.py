"""Memory that one piece of work leaves behind, given back before the next one begins."""

from __future__ import annotations

import ctypes
import gc

import torch


def give_back() -> None:
    """Free what only reference cycles hold (a Trainer holds its model in one), and return freed
    pages to the operating system where the C library can (glibc keeps them otherwise)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
