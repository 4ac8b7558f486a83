"""How much memory there is, and what would need more: refused before any of it is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from peak_nerf.errors import PeakError

SPARE = 0.9
"""Fraction of the machine's memory that may be asked for."""
CAUTIOUS = 4 * 2**30
"""What is taken to be free where the machine does not tell."""


def physical_memory() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes that this machine has free, or `CAUTIOUS` where it does not tell."""
    if sys.platform == "linux":
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    return CAUTIOUS


def check_memory(needed: Mapping[str, int], where: str) -> None:
    """Refuse what this machine can never hold.

    Args:
        needed: bytes that are held at once, by what they are for; the names say which options decide.
        where: the command, option or file that asks, for the message.

    Raises: PeakError with the estimate, the largest part and the remedy.
    """
    there, total = physical_memory(), sum(needed.values())
    if total > SPARE * there:
        what, most = max(needed.items(), key=lambda part: part[1])
        raise PeakError(
            f"{where}: these sizes need about {_gib(total)} of memory, and the machine has {_gib(there)}; most,"
            f" {_gib(most)}, is for the {what}; lower them"
        )


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.0f} GiB"
