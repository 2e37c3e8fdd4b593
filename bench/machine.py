"""What machine this is, and which of its cores the measured programs have."""

import os
import platform
import sys
from pathlib import Path


def bind(threads):
    """Binds this process, and so the peers that it starts, to the first `threads` cores; says how."""
    if not hasattr(os, "sched_setaffinity"):
        return "not bound to cores: this system cannot"
    cores, seen = [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        # One thread a core: two hyperthreads of one core would share its FMA units.
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        if siblings not in seen:
            seen.add(siblings)
            cores.append(cpu)
    if len(cores) < threads:
        sys.exit(f"{threads} threads asked for, but there are {len(cores)} cores; say fewer with --threads.")
    os.sched_setaffinity(0, cores[:threads])
    return f"bound to cores {cores[:threads]}"


def processor():
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
