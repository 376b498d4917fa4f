"""Numbers of x86-64 system calls, from the kernel headers of this machine and of Linux 6.12.

Source: arch/x86/entry/syscalls/syscall_64.tbl, by way of asm/unistd_64.h.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
LAST_OF_6_12 = 462
_LATER = {  # in 6.12, not in the headers of Debian 12
    "uretprobe": 335,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
}


@functools.cache
def numbers() -> dict[str, int]:
    """Return the number of every 64-bit system call by name."""
    if not HEADER.exists():
        pytest.skip("needs linux-libc-dev for the numbers of system calls")
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", HEADER.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found} | _LATER


def name_of(number: int) -> str:
    """Return the name of a number, or the number itself where there is none."""
    return _names().get(number, str(number))


@functools.cache
def _names() -> dict[int, str]:
    return {number: name for name, number in numbers().items()}
