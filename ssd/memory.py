"""Memory of tensors on CPUs: kept by the process rather than given back to the kernel at every step."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h


def keep_memory() -> bool:
    """Have the C library keep what is freed, for this process; return whether it can.

    glibc asks the kernel anew for every large tensor, and the kernel clears each page when it is first touched: a third
    of the time of TinySSD's step. Kept memory needs no clearing. The process then keeps the most that it ever needed.
    To be called before threads are started: those that have worked before go on as before.

    Source: mallopt(3). Other C libraries have no such switch, and need none or have their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(switch, value) == 1 for switch, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    )
