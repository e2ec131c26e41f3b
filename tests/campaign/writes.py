#!/usr/bin/env python3
"""writes.py DTRAIN SHIM [--ranks N] [--every K] [--seed S]: a disk that fails at each call in turn.

SHIM (shim.c) lets the n-th call that concerns the checkpoint folder go wrong in a short training
with four checkpoints, of which two are kept. For every n, rank 0
  is killed there (kill), or after half of a write (torn);
  is told EIO, ENOSPC, EDQUOT or EROFS, once, or EIO from then on (dead);
  writes a half and is told so (short), or is not (lost);
  is told EIO, and stops (--on-checkpoint-failure stop).
Whatever it was, each checkpoint in the folder must be the file that an undisturbed training writes,
byte by byte, and none that was complete is lost. A failure is one line that names file and reason;
the training goes on and ends with the right weights, its status is 74 if the last checkpoint is not
there, and a failure before the first step is the end, with 74. Then --resume auto on another number
of ranks goes on to the same weights, and nothing is left. --every K takes each K-th case only.
"""

import collections
import concurrent.futures
import errno
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile

import jobs
from jobs import Failure, Job, weights

NETWORK = "input 28 28 1\nconv 2 3x3 relu\nmaxpool 4\ndense 10\n"
EVERY, CHECKPOINTS, KEEP = 2, 4, 2
OPTIONS = [
    "--data", "synthetic:200", "--validation-size", "40", "--model", "net", "--threads", "1",
    "--eval-every", "100", "--steps", str(EVERY * CHECKPOINTS), "--checkpoint-every", str(EVERY),
]
KEPT = ["--keep", str(KEEP), "--checkpoint-dir", "run", "--resume", "auto"]
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
HALVES = ("torn", "short", "lost")
NOT_WRITTEN = 74

# The n-th call goes wrong in one of the ways above.
Case = collections.namedtuple("Case", "call how")


def shim_words(case):
    """As DTRAIN_TEST_FAIL."""
    if case.how == "dead":
        return f"{case.call}+:{errno.EIO}"
    if case.how == "stop":
        return f"{case.call}:{errno.EIO}"
    return f"{case.call}:{getattr(errno, case.how, case.how)}"


def name_of(index):
    return f"ckpt-s{EVERY * (index + 1):09d}.h5"


def latest_of(folder):
    path = folder / "latest"
    return path.read_text().strip() if path.exists() else ""


class Campaign:
    def __init__(self, dtrain, shim, work, ranks):
        self.dtrain = dtrain
        self.shim = shim
        self.work = work
        self.ranks = ranks
        # Of all steps, as a training may stop at any. What is equal to these is good.
        reference = self.folder_for("reference")
        self.weights = jobs.undisturbed([dtrain], reference, ranks, OPTIONS + [
            "--checkpoint-every", "1", "--keep", "1000", "--checkpoint-dir", "run"])
        self.files = {path.name: path.read_bytes() for path in (reference / "run").glob("ckpt-*")}
        for command in [["info", reference / "run" / name] for name in self.files] + [
                ["eval", reference / "run"]]:
            subprocess.run([dtrain] + command, env=jobs.environment(), stdout=subprocess.DEVNULL,
                           check=True)
        self.calls = self.count_calls()

    def folder_for(self, name):
        folder = self.work / name
        folder.mkdir()
        (folder / "net").write_text(NETWORK)
        return folder

    def with_shim(self, place, fail):
        return ["env", f"LD_PRELOAD={self.shim}", f"DTRAIN_TEST_FOLDER={place}/run",
                f"DTRAIN_TEST_LOG={place}/log", f"DTRAIN_TEST_FAIL={fail}", self.dtrain]

    def count_calls(self):
        place = self.folder_for("count")
        found = jobs.undisturbed(self.with_shim(place, "0:none"), place, self.ranks, OPTIONS + KEPT)
        calls = (place / "log").read_text().splitlines()
        if found != self.weights or not calls:
            raise Failure(f"weights {found}, expected {self.weights}, with calls {calls}")
        return calls

    def cases(self):
        every = range(1, len(self.calls) + 1)
        writes = [call for call in every if self.calls[call - 1].startswith("write ")]
        whole = [Case(call, how) for how in ("kill", "dead", "stop") + ERRORS for call in every]
        return whole + [Case(call, how) for how in HALVES for call in writes]

    # What must be true of the folder.

    def check_files(self, folder):
        """Returns the names of the checkpoints that are there."""
        found = sorted(entry.name for entry in folder.glob("ckpt-*"))
        for name in found:
            if (folder / name).read_bytes() != self.files.get(name):
                raise Failure(f"{name} is not what it should be")
        latest = latest_of(folder)
        if latest and latest not in found:
            raise Failure(f"there are {found}, latest is {latest}")
        return found

    def check_whole(self, folder):
        """As a training leaves it that has come to its end."""
        found, last = self.check_files(folder), name_of(CHECKPOINTS - 1)
        if len(found) != KEEP or last not in found or latest_of(folder) != last:
            raise Failure(f"there are {found}, latest is {latest_of(folder)}")
        jobs.check_nothing_left(folder)

    def check_goes_on(self, place, calls):
        """From the last checkpoint that had its name, or a later one."""
        named = re.findall(r"^renameat ckpt-s(\d+)", "\n".join(calls[:-1]), re.M)
        status, text = Job([self.dtrain], place, 3 - self.ranks, OPTIONS + KEPT).wait()
        if status != 0 or weights(text) != self.weights:
            raise Failure(f"resumed: status {status}\n{text}")
        resumed = re.search(r"^Resumed: \S+, step (\d+)", text, re.M)
        if named and (resumed is None or int(resumed.group(1)) < int(named[-1])):
            raise Failure(f"a checkpoint of step {int(named[-1])} is lost\n{text}")
        self.check_whole(place / "run")

    # What must be true of the training.

    def is_before(self, case, index):
        """Whether the failure comes before anything is written of a checkpoint."""
        return not any(name_of(index) in call for call in self.calls[:case.call])

    def check_told(self, case, text):
        """A line that names folder and reason, and one line but for a dead disk; returns them."""
        reason = os.strerror(getattr(errno, case.how, errno.EIO))
        told = [line for line in text.splitlines() if line.startswith("dtrain: ")]
        if case.how == "short" and told or len(told) > 1 and case.how != "dead":
            raise Failure(f"too many words:\n{text}")
        if not all(reason in line and "run" in line for line in told):
            raise Failure(f"no word of '{reason}':\n{text}")
        return told

    def statuses(self, case, told):
        """Those that are right."""
        last = CHECKPOINTS - 1
        if told and self.is_before(case, 0):
            return {NOT_WRITTEN}
        if not any("warning: no checkpoint: " in line for line in told):
            return {0}
        if case.how == "dead" or not self.is_before(case, last):
            return {NOT_WRITTEN}
        if case.how != "stop":
            return {0}
        # The next checkpoint waits for the one before, and then it takes a step to stop.
        return {NOT_WRITTEN} if self.is_before(case, last - 1) else {0, NOT_WRITTEN}

    def check_error(self, case, place, status, text):
        told = self.check_told(case, text)
        if status not in self.statuses(case, told):
            raise Failure(f"status {status}\n{text}")
        ends = status == 0 or (case.how != "stop" and not self.is_before(case, 0))
        if ends and weights(text) != self.weights:
            raise Failure(f"weights {weights(text)}\n{text}")
        # Only what cannot be removed stays.
        if case.how != "dead" and not self.calls[case.call - 1].startswith("unlinkat"):
            jobs.check_nothing_left(place / "run")
            if not told:
                self.check_whole(place / "run")

    def run(self, case):
        place = self.folder_for(f"{case.call}-{case.how}")
        options = ["--on-checkpoint-failure", "stop"] if case.how == "stop" else []
        status, text = Job(self.with_shim(place, shim_words(case)), place, self.ranks,
                           OPTIONS + KEPT + options).wait()
        calls = (place / "log").read_text().splitlines()
        killed = case.how in ("kill", "torn")
        try:
            if len(calls) < case.call or killed and status == 0:
                raise Failure(f"was not reached: status {status}\n{text}")
            if not killed:
                self.check_error(case, place, status, text)
            self.check_files(place / "run")
            if status != 0 or jobs.leftovers(place / "run"):
                self.check_goes_on(place, calls[:case.call])
        except Failure as failure:
            raise Failure(f"{case.how} at call {case.call} ({self.calls[case.call - 1]}) on "
                          f"{self.ranks} ranks: {failure}") from None
        shutil.rmtree(place)


CHANGING = re.compile("_*(p?writev?2?|f?truncate|f(data)?sync|sync_file_range|rename.*|remove|"
                      "creat|open(at)?|(un)?link(at)?|symlink.*|mkdir.*|rmdir|futimens|utimensat)$")


def functions(path, which):
    """Those that a file takes from others (--undefined-only), or gives them (--defined-only)."""
    listed = subprocess.run(["nm", "-D", which, path], capture_output=True, text=True, check=True)
    return {re.sub("(64)?(@.*)?$", "", line.split()[-1]) for line in listed.stdout.splitlines()}


def check_shim(dtrain, shim):
    """The program may change a folder by no function that the shim does not know."""
    changing = filter(CHANGING.match, functions(dtrain, "--undefined-only"))
    unknown = set(changing) - functions(shim, "--defined-only")
    if unknown:
        raise Failure(f"shim.c does not know {sorted(unknown)}")


def main():
    parser = jobs.parser(__doc__)
    parser.add_argument("shim", type=lambda name: str(pathlib.Path(name).resolve()))
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    check_shim(arguments.dtrain, arguments.shim)
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name).resolve()
        campaign = Campaign(arguments.dtrain, arguments.shim, work, arguments.ranks)
        first = random.Random(arguments.seed).randrange(arguments.every)
        cases = campaign.cases()[first::arguments.every]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(campaign.run, cases):
                pass
    print(f"{len(cases)} failures at {len(campaign.calls)} calls on {arguments.ranks} ranks, "
          f"seed {arguments.seed}: all ended with {campaign.weights}")


if __name__ == "__main__":
    jobs.run(main)
