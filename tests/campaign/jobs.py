"""jobs.py: what the campaigns share: jobs of dtrain, each in a folder of its own."""

import argparse
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

HANG_S = 120  # longer takes no job, however busy the machine is
LAUNCHER = ["mpirun", "--bind-to", "none"]
# Each rank leaves its process number, and is that process.
WRAPPER = 'echo $$ >"pid.${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}"; exec "$@"'


class Failure(Exception):
    """What a campaign is looking for."""


def environment():
    return dict(
        os.environ,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        PRTE_MCA_rmaps_default_mapping_policy="slot:oversubscribe",
        # MPI keeps memory until the process ends; shim.c may come before the sanitizers' library.
        ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0",
    )


def weights(output):
    found = re.search(r"^Weights: (\w+)$", output, re.M)
    return found.group(1) if found else None


class Job:
    """A job in a folder of its own; `command` is the program with what stands before it."""

    def __init__(self, command, work, ranks, options):
        self.work = work
        self.ranks = ranks
        for stale in work.glob("pid.*"):
            stale.unlink()
        self.output = open(work / "output", "w+")
        self.process = subprocess.Popen(
            LAUNCHER + ["-n", str(ranks), "sh", "-c", WRAPPER, "sh"] + command + options,
            cwd=work, env=environment(), stdin=subprocess.DEVNULL, stdout=self.output,
            stderr=subprocess.STDOUT)

    def pid(self, rank):
        """The rank's process, None before it has begun."""
        try:
            return int((self.work / f"pid.{rank}").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def send(self, rank, number):
        pid = self.pid(rank)
        if pid is not None and self.process.poll() is None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def wait(self, limit_s=HANG_S):
        """The exit status and what was printed; no rank may outlive the job."""
        pids = [self.pid(rank) for rank in range(self.ranks)]
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = self.end_launcher()
        end = time.monotonic() + 10
        for rank, pid in enumerate(pids):
            while pid is not None and self.is_alive(pid):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    raise Failure(f"rank {rank} has outlived its job:\n{self.text()}")
                time.sleep(0.05)
        text = self.text()
        self.output.close()
        return status, text

    def end_launcher(self):
        """Open MPI 4's mpirun does not end by itself when it loses a rank at a bad moment of its
        start. That is no fault of the job's, whose ranks have all ended; anything else is."""
        hangs = any(pid is not None and self.is_alive(pid)
                    for pid in map(self.pid, range(self.ranks)))
        self.process.kill()
        if hangs:
            raise Failure(f"the job hangs:\n{self.text()}")
        print(f"mpirun did not end, though its ranks had:\n{self.text()}", flush=True)
        return self.process.wait()

    def is_alive(self, pid):
        try:
            return self.work.resolve() == pathlib.Path(f"/proc/{pid}/cwd").resolve(strict=True)
        except OSError:
            return False

    def text(self):
        self.output.seek(0)
        return self.output.read()


def undisturbed(command, work, ranks, options):
    """The weights of a training that ends in peace."""
    status, text = Job(command, work, ranks, options).wait()
    if status != 0 or weights(text) is None:
        raise Failure(f"the undisturbed training: status {status}\n{text}")
    return weights(text)


def leftovers(folder):
    """Locks and temporary files."""
    return sorted(entry.name for entry in folder.glob(".*"))


def check_nothing_left(folder):
    if leftovers(folder):
        raise Failure(f"left in the checkpoint folder: {leftovers(folder)}")


def parser(usage):
    """The arguments of every campaign."""
    made = argparse.ArgumentParser(description=usage.splitlines()[0])
    made.add_argument("dtrain", type=lambda name: str(pathlib.Path(name).resolve()))
    made.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    return made


def run(campaign):
    """Its main function; a failure is one text and exit status 1."""
    try:
        campaign()
    except Failure as failure:
        sys.exit(f"FAILED: {failure}")
