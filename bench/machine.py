"""What machine this is, and which of its cores the measured programs have."""

import os
import platform
import subprocess
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
    return cpuinfo("model name") or platform.processor()


def cpuinfo(field):
    """What Linux says of the first core."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith(field)), "")


def avx2_only(folder):
    """The environment in which programs see AVX2 and nothing beyond it, whatever this machine has (avx2.c)."""
    flags = cpuinfo("flags").split()
    if "avx2" not in flags:
        sys.exit("--isa avx2: this machine has no AVX2, or does not say so.")
    if "avx512f" not in flags:
        return {}
    library = folder / "bench-avx2.so"
    source = Path(__file__).parent / "avx2.c"
    compile = ["cc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,initfirst", source, "-o", library]
    subprocess.run(compile, check=True)
    # Ours may be linked statically, and preloads nothing then.
    environment = {"LD_PRELOAD": str(library), "ENGRAFT_SIMD": "avx2"}
    trial = subprocess.run(["/bin/true"], env={**os.environ, **environment}, capture_output=True, text=True)
    if trial.returncode:
        sys.exit(f"--isa avx2: {trial.stderr.strip()}")
    return environment
