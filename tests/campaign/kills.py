#!/usr/bin/env python3
"""kills.py DTRAIN [--runs N] [--seed S]: trainings whose ranks are killed, stopped and signalled.

Each run trains a small network in jobs of 1, 2, 3, 4, 7 or 8 ranks that go on where the last one has
left (--resume auto), until one ends. Every job but the last gets a signal at a random time to a random
rank, rank 0 in a third of them: SIGKILL, SIGTERM, SIGUSR1, SIGUSR2, or SIGSTOP, which the watchdog has
to notice where there is one. The weights must be those of a training that nobody disturbed, and
nothing may be left: no process, no temporary file, no lock. A failure prints the run's seed, which
repeats its choices (the times are the machine's).
"""

import argparse
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

NETWORK = """input 28 28 1
conv 6 5x5 relu
maxpool 2
dense 400 relu
dropout 0.5
dense 10
"""
STEPS = 150
RANKS = (1, 2, 3, 4, 7, 8)
HANG_S = 120  # longer takes no job, however busy the machine is
OPTIONS = [
    "--data", "synthetic:1000", "--validation-size", "100", "--model", "net", "--threads", "1",
    "--eval-every", "50", "--steps", str(STEPS),
]
LAUNCHER = ["mpirun", "--bind-to", "none"]
# Each rank leaves its process number, and is that process.
WRAPPER = 'echo $$ >"pid.${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}"; exec "$@"'


class Failure(Exception):
    pass


def environment():
    return dict(
        os.environ,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        PRTE_MCA_rmaps_default_mapping_policy="slot:oversubscribe",
        ASAN_OPTIONS="detect_leaks=0",
    )


def weights(output):
    found = re.search(r"^Weights: (\w+)$", output, re.M)
    return found.group(1) if found else None


class Job:
    """A job in a folder of its own."""

    def __init__(self, dtrain, work, ranks, options):
        self.work = work
        self.ranks = ranks
        for stale in work.glob("pid.*"):
            stale.unlink()
        self.output = open(work / "output", "w+")
        self.process = subprocess.Popen(
            LAUNCHER + ["-n", str(ranks), "sh", "-c", WRAPPER, "sh", dtrain] + OPTIONS + options,
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

    def wait(self):
        """The exit status and what was printed; no rank may outlive the job."""
        pids = [self.pid(rank) for rank in range(self.ranks)]
        try:
            status = self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure(f"the job hangs:\n{self.text()}") from None
        end = time.monotonic() + 10
        for rank, pid in enumerate(pids):
            while pid is not None and self.is_alive(pid):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    raise Failure(f"rank {rank} has outlived its job:\n{self.text()}")
                time.sleep(0.05)
        return status, self.text()

    def is_alive(self, pid):
        try:
            return self.work.resolve() == pathlib.Path(f"/proc/{pid}/cwd").resolve(strict=True)
        except OSError:
            return False

    def text(self):
        self.output.seek(0)
        return self.output.read()


def interrupt(job, choice, has_watchdog):
    """A signal at a random time; returns what was done."""
    time.sleep(choice.expovariate(1 / 0.5))
    rank = 0 if choice.random() < 1 / 3 else choice.randrange(job.ranks)
    numbers = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    if has_watchdog:
        numbers.append(signal.SIGSTOP)
    number = choice.choice(numbers)
    job.send(rank, number)
    return f"{number.name} to rank {rank} of {job.ranks}"


def check_folder(folder):
    left = [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
    if left:
        raise Failure(f"left in the checkpoint folder: {left}")


def run_once(dtrain, work, seed, expected, has_watchdog):
    """Returns how often the training was interrupted."""
    choice = random.Random(seed)
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--resume", "auto", "--checkpoint-dir", "run",
               "--checkpoint-every", str(choice.choice((1, 3, 10, 50)))]
    if has_watchdog:
        options += ["--watchdog", "3"]
    done = []
    for jobs in range(1, 100):
        job = Job(dtrain, work, choice.choice(RANKS), options)
        if jobs <= 8:  # then it may end in peace
            done.append(interrupt(job, choice, has_watchdog))
        status, text = job.wait()
        if status == 0:
            break
        if status in (2, 65, 74):
            raise Failure(f"status {status} after {done}:\n{text}")
    else:
        raise Failure(f"no end after {done}")
    if weights(text) != expected:
        raise Failure(f"weights {weights(text)}, expected {expected}, after {done}:\n{text}")
    check_folder(folder)
    return len(done)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dtrain", type=lambda name: str(pathlib.Path(name).resolve()))
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    usage = subprocess.run([arguments.dtrain, "--help"], capture_output=True, text=True, check=True)
    has_watchdog = "--watchdog" in usage.stdout
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "net").write_text(NETWORK)
        status, text = Job(arguments.dtrain, work, 1, ["--checkpoint-dir", "none"]).wait()
        expected = weights(text)
        if status != 0 or expected is None:
            sys.exit(f"FAILED: the undisturbed training: status {status}\n{text}")
        interruptions = 0
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            try:
                count = run_once(arguments.dtrain, work, seed, expected, has_watchdog)
                print(f"seed {seed}: {count} interruptions", flush=True)
                interruptions += count
            except Failure as failure:
                sys.exit(f"FAILED: --seed {seed} --runs 1: {failure}")
    print(f"{arguments.runs} runs from seed {arguments.seed}, {interruptions} interruptions: "
          f"all ended with {expected}")


if __name__ == "__main__":
    main()
