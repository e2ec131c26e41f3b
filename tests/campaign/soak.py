#!/usr/bin/env python3
"""soak.py DTRAIN [--checkpoints N] [--steps N]: long trainings, whose processes must not grow.

Two trainings of a tiny network on 2 ranks: one with a checkpoint after each of N steps, of which
three are kept, and one of N steps. Memory, open descriptors and threads of each rank are sampled
the whole time: the medians of the second and of the last quarter must be equal, memory but for 40
bytes a checkpoint, or 4 bytes a step, and 16 KiB that may come and go.
"""

import collections
import pathlib
import re
import statistics
import tempfile
import time

import jobs
from jobs import Failure, Job

NETWORK = "input 28 28 1\nmaxpool 14\ndense 10\n"
RANKS = 2
OPTIONS = [
    "--data", "synthetic:100", "--validation-size", "20", "--model", "net", "--threads", "1",
    "--batch-size", "8", "--eval-every", "1000",
]
SLACK_BYTES = 16 << 10
SAMPLES = 20  # at least, for medians of quarters
MEMORY = pathlib.Path("/dev/shm")  # in place of a disk, which would take ten times as long

Sample = collections.namedtuple("Sample", "memory descriptors threads")


def sample(pid):
    """None where the process is no longer there."""
    process = pathlib.Path(f"/proc/{pid}")
    try:
        # Exact, other than the sum in /proc/PID/status.
        memory = re.search(r"^Rss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.M)
        return Sample(1024 * int(memory.group(1)), len(list((process / "fd").iterdir())),
                      len(list((process / "task").iterdir())))
    except (AttributeError, OSError):
        return None


def watch(job):
    """The samples of each rank, until the job ends."""
    samples = [[] for _ in range(RANKS)]
    while job.process.poll() is None:
        for rank in range(RANKS):
            pid = job.pid(rank)
            found = sample(pid) if pid is not None else None
            if found is not None:
                samples[rank].append(found)
        time.sleep(0.02)
    return samples


def growth(samples):
    """Between the second and the last quarter, half of the training apart."""
    quarter = len(samples) // 4
    early, late = samples[quarter:2 * quarter], samples[-quarter:]
    return Sample(*(statistics.median(each) - statistics.median(former)
                    for former, each in zip(zip(*early), zip(*late))))


def soak(dtrain, work, what, count, bytes_each, options):
    job = Job([dtrain], work, RANKS, OPTIONS + ["--steps", str(count)] + options)
    samples = watch(job)
    status, text = job.wait()
    if status != 0 or min(map(len, samples)) < SAMPLES:
        raise Failure(f"{what}: status {status}, {len(samples[0])} samples\n{text}")
    for rank in range(RANKS):
        grown = growth(samples[rank])
        print(f"{count} {what}, rank {rank}, {len(samples[rank])} samples: {grown.memory:+.0f} "
              f"bytes, {grown.descriptors:+.0f} descriptors, {grown.threads:+.0f} threads",
              flush=True)
        allowed = SLACK_BYTES + bytes_each * count / 2
        if grown.descriptors or grown.threads or grown.memory > allowed:
            raise Failure(f"{what}: rank {rank} grows")


def main():
    parser = jobs.parser(__doc__)
    parser.add_argument("--checkpoints", type=int, default=10000)
    parser.add_argument("--steps", type=int, default=100000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        work = pathlib.Path(name)
        (work / "net").write_text(NETWORK)
        soak(arguments.dtrain, work, "checkpoints", arguments.checkpoints, 40,
             ["--checkpoint-dir", "run", "--checkpoint-every", "1", "--keep", "3"])
        jobs.check_nothing_left(work / "run")
        soak(arguments.dtrain, work, "steps", arguments.steps, 4, ["--checkpoint-dir", "none"])
    print(f"{arguments.checkpoints} checkpoints and {arguments.steps} steps: nothing has grown")


if __name__ == "__main__":
    jobs.run(main)
