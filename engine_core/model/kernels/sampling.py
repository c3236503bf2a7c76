"""The kernel that picks a token from each row of logits, as Python sees it (`src/sampling.h`).

Invariant: the fields of `RowSampling` are those of the struct of the same name in C++.
Used by `sampling/native_token_picker.py`.
"""

import ctypes
from ctypes import Structure, c_double, c_float, c_int32, c_int64, c_void_p

SAMPLING_GROUP = 256
"""Tokens whose weights are added up before those of the others."""


class RowSampling(Structure):
    """How one row is sampled."""

    _fields_ = (
        ("uniform", c_double),
        ("top_p", c_double),
        ("temperature", c_float),
        ("log_min_p", c_float),
        ("top_k", c_int32),
    )


def declare_sampling(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of the kernel's arguments."""
    library.sample_rows.argtypes = (
        *(c_void_p, c_int64, c_int32, c_void_p, c_int32),
        *(c_void_p, c_void_p, c_void_p, c_int64, c_int32),
    )
    library.sample_rows.restype = None


def scratch_size(vocab_size: int) -> int:
    """Floats of scratch memory of each thread: `sampling_scratch_size` in C++."""
    size = 3 * (vocab_size + 16) + 2 * -(-vocab_size // SAMPLING_GROUP)
    return size + size % 2  # each thread's begins with doubles
