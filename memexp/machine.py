"""This machine and this process: processor cores, memory, full disks, the parent process, and the commit of the code that runs."""

import errno
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no space."""

ALMOST_NOTHING = 1 << 20
"""With less free space than this many bytes, a file system counts as full."""


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


def why_full(error: OSError, path: Path | None = None) -> str:
    """The end of a message that names the file system that is full; empty if the error is of another kind.

    Args:
        path: the file that could not be written; None if it is not known.
    """
    if error.errno not in FULL:
        return ""
    places = [
        *([_mount(path)] if path else []),
        *(Path(name) for name in ("/dev/shm", "/tmp", os.environ.get("TMPDIR")) if name),
    ]
    free = {place: shutil.disk_usage(place) for place in places if place.is_dir()}
    full = next((place for place, space in free.items() if space.free < ALMOST_NOTHING), None)
    if full is None and path is None:
        return ". Likely cause: the disk is full or a quota is used up"
    if full is None or (path and full == places[0]):
        place, cause = full or places[0], "the disk is full or a quota is used up"
    else:
        place, cause = (
            full,
            f"{full} is full, which is not the disk of the results but holds temporary files or shared memory",
        )
    space = free[place]
    return f". Likely cause: {cause} (file system {place}: {_size(space.free)} of {_size(space.total)} free)"


def _mount(path: Path) -> Path:
    """Where the file system of `path` is mounted."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    place = place.resolve()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


JOBS = "MEMEXP_JOBS"
"""Environment variable: how many jobs of a sweep run on this machine at the same time; see `jobs_here`."""


def jobs_here() -> int:
    """How many jobs share this machine, this one included, as far as the sweep that started it knows."""
    text = os.environ.get(JOBS, "")
    return max(1, int(text)) if text.isdecimal() else 1


PARENT = "MEMEXP_PARENT"
"""Environment variable with the process id of the sweep that starts a process; see `end_with_parent`."""

PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>."""


def end_with_parent() -> None:
    """If a sweep started this process, make the end of the sweep, however it ends, a SIGTERM for this process."""
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
