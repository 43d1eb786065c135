"""This machine and this process: processor cores, memory, and the commit of the code that runs."""

import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path


def cores() -> int:
    """Processor cores that this process may use; all cores if the system does not say, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The machine's memory, or the limit of this process's control group if that is smaller."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else ""
    return min(installed, int(text)) if text.isdigit() else installed


def processor() -> str:
    """The processor's name, as the system reports it."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def peak_bytes() -> int:
    """The largest resident memory of this program so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the peak of the parent process before exec
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def commit() -> str | None:
    """The commit of the checkout that this code runs from, followed by + if there are uncommitted changes; None without one."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():  # installed, perhaps inside another project's checkout
        return None
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=checkout, capture_output=True, text=True, timeout=5, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return text.stdout.strip() or None
