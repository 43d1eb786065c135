"""What the machine can run at once and hold, and what this process has held."""

import os
import resource
import sys
from pathlib import Path


def cores() -> int:
    """Processor cores that this process may use; all there are where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The machine's memory, or what a control group leaves of it."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else ""
    return min(there, int(text)) if text.isdigit() else there


def peak_bytes() -> int:
    """The largest resident set since this program began."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the process that started this one held
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
