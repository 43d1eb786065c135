"""Slurm's programs, as far as submitit and we use them, on this machine alone; a link to this file is the program of its name.

The folder of the links holds a file `N.job` with the state of each job in the queue, `N.step` with the processes of its tasks,
and `N.again` if it was asked to go into the queue again. While there is a file `full`, jobs wait in the queue for ever.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(sys.argv[0]).absolute().parent


def sbatch(script: str) -> int:
    """Start the script in the background, and again as long as it is put back into the queue."""
    text = Path(script).read_text()
    if "--partition=nowhere" in text:
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    number = str(1 + len(list(HERE.glob("*.script"))))
    (HERE / f"{number}.script").write_text(text)
    (HERE / f"{number}.job").write_text("PENDING")
    print(f"Submitted batch job {number}", flush=True)
    if (HERE / "full").exists() or os.fork():
        return 0
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    asked = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in text.splitlines()
        if "=" in line and line.startswith("#S")
    )
    tasks = int(asked["ntasks-per-node"])
    environment = os.environ | {
        "SLURM_JOB_ID": number, "SLURM_NTASKS": str(tasks), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "127.0.0.1",
    }  # fmt: skip
    while True:
        (HERE / f"{number}.job").write_text("RUNNING")
        subprocess.run(["bash", script], env=environment)
        if not (HERE / f"{number}.again").exists():
            (HERE / f"{number}.job").unlink()
            return 0
        (HERE / f"{number}.again").unlink()


def srun(*words: str) -> int:
    """Run the command in each task; SIGUSR2 goes to all their processes, as Slurm sends it."""
    command = list(words[words.index(sys.executable) :])
    output, number = words[words.index("--output") + 1], os.environ["SLURM_JOB_ID"]
    count = int(os.environ["SLURM_NTASKS"])
    shared = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_ID": "0", "GLOO_SOCKET_IFNAME": "lo"}
    tasks = []
    for rank in map(str, range(count)):
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0"}
        with Path(output.replace("%j", number).replace("%t", rank)).open("ab") as log:
            tasks.append(
                subprocess.Popen(command, env=os.environ | shared | own, stdout=log, stderr=log, start_new_session=True)
            )
    (HERE / f"{number}.step").write_text(" ".join(str(task.pid) for task in tasks))
    return max(task.wait() % 256 for task in tasks)


def scontrol(what: str, number: str) -> int:
    assert what == "requeue"
    (HERE / f"{number}.again").touch()
    return 0


def squeue(*_: str) -> int:
    for path in HERE.glob("*.job"):
        print(path.stem, path.read_text())
    return 0


def scancel(number: str, send: str = "SIGTERM") -> int:
    """Send a signal to all processes of a job."""
    for task in (HERE / f"{number}.step").read_text().split():
        os.killpg(int(task), signal.Signals[send])
    return 0


PROGRAMS = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "squeue": squeue, "scancel": scancel}

if __name__ == "__main__":
    sys.exit(PROGRAMS[Path(sys.argv[0]).name](*sys.argv[1:]))
