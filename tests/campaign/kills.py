#!/usr/bin/env python3
"""kills.py DTRAIN [--runs N] [--seed S]: trainings whose ranks are killed, stopped and signalled.

Each run trains a small network in jobs of 1, 2, 3, 4, 7 or 8 ranks that go on where the last one
has left (--resume auto), until one ends. Every job but the last gets a signal at a random time to a
random rank, rank 0 in a third of them: SIGKILL, SIGTERM, SIGUSR1, SIGUSR2, or SIGSTOP, which the
watchdog has to notice. (A job of one rank is suspended by it as a whole, which is no fault: it goes
on.) The weights must be those of a training that nobody disturbed, and nothing
may be left: no process, no temporary file, no lock. A failure prints the run's seed, which repeats
its choices (the times are the machine's).
"""

import pathlib
import random
import shutil
import signal
import tempfile
import time

import jobs
from jobs import Failure, Job, weights

NETWORK = """input 28 28 1
conv 6 5x5 relu
maxpool 2
dense 400 relu
dropout 0.5
dense 10
"""
STEPS = 150
WATCHDOG_S = 3
RANKS = (1, 2, 3, 4, 7, 8)
OPTIONS = [
    "--data", "synthetic:1000", "--validation-size", "100", "--model", "net", "--threads", "1",
    "--eval-every", "50", "--steps", str(STEPS),
]


def interrupt(job, choice):
    """A signal at a random time; returns what was done."""
    time.sleep(choice.expovariate(1 / 0.5))
    rank = 0 if choice.random() < 1 / 3 else choice.randrange(job.ranks)
    number = choice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1,
                            signal.SIGUSR2, signal.SIGSTOP))
    job.send(rank, number)
    if number == signal.SIGSTOP and job.ranks == 1:
        time.sleep(1.5 * WATCHDOG_S)
        job.send(rank, signal.SIGCONT)
    return f"{number.name} to rank {rank} of {job.ranks}"


def run_once(dtrain, work, seed, expected):
    """Returns how often the training was interrupted."""
    choice = random.Random(seed)
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    options = OPTIONS + ["--resume", "auto", "--checkpoint-dir", "run", "--watchdog", str(WATCHDOG_S),
                         "--checkpoint-every", str(choice.choice((1, 3, 10, 50)))]
    done = []
    for count in range(1, 100):
        job = Job([dtrain], work, choice.choice(RANKS), options)
        if count <= 8:  # then it may end in peace
            done.append(interrupt(job, choice))
        status, text = job.wait()
        if status == 0:
            break
        if status in (2, 65, 74):
            raise Failure(f"status {status} after {done}:\n{text}")
    else:
        raise Failure(f"no end after {done}")
    if weights(text) != expected:
        raise Failure(f"weights {weights(text)}, expected {expected}, after {done}:\n{text}")
    jobs.check_nothing_left(folder)
    return len(done)


def main():
    parser = jobs.parser(__doc__)
    parser.add_argument("--runs", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "net").write_text(NETWORK)
        expected = jobs.undisturbed(
            [arguments.dtrain], work, 1, OPTIONS + ["--checkpoint-dir", "none"])
        interruptions = 0
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            try:
                count = run_once(arguments.dtrain, work, seed, expected)
                print(f"seed {seed}: {count} interruptions", flush=True)
                interruptions += count
            except Failure as failure:
                raise Failure(f"--seed {seed} --runs 1: {failure}") from None
    print(f"{arguments.runs} runs from seed {arguments.seed}, {interruptions} interruptions: "
          f"all ended with {expected}")


if __name__ == "__main__":
    jobs.run(main)
