"""How fast a step is: dtrain beside PyTorch, in turns, on the same GPU, network and data."""

import csv
import io
import os
import queue
import re
import statistics
import subprocess
import tempfile
import threading
import time

import machine as machines

PEERS = os.path.join(machines.ROOT, "bench", "peers")
ROUNDS = 5


class Peer:
    """A PyTorch process that times what it is asked for (torch_step.py --serve)."""

    def __init__(self, machine, name, precision, options):
        self.name, self.precision = name, precision
        self.lines = queue.Queue()
        log = os.path.join(machine.out, "log", f"{name.replace(' ', '-')}-{precision}.txt")
        self.log = open(log, "w+", encoding="utf-8")
        environment = dict(
            os.environ,
            TORCHINDUCTOR_CACHE_DIR=os.path.join(tempfile.gettempdir(), "dtrain-inductor"),
            TORCHINDUCTOR_COMPILE_THREADS="2",
        )
        command = [machines.python(), os.path.join(PEERS, "torch_step.py"), "--serve", *options]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")  # it has ended

    def ask(self, batch, steps):
        try:
            self.process.stdin.write(f"{batch} {steps}\n")
            self.process.stdin.flush()
        except OSError:
            pass  # answer() finds out

    def answer(self, limit_s):
        """Milliseconds a step of what was asked first, of what is not answered yet."""
        line = self.lines.get(timeout=max(0.01, limit_s))
        if line == "":
            self.lines.put("")
            raise RuntimeError(self.why())
        if line.startswith("failed: "):
            raise RuntimeError(line[len("failed: ") :].strip()[:300])
        found = re.search(r": ([0-9.]+) ms/step, loss ", line)
        return float(found.group(1)) if found else self.answer(limit_s)

    def why(self):
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return (lines or ["it ended"])[-1][:300]

    def end(self):
        machines.kill_group(self.process)
        self.process.wait()
        self.log.close()


class Dtrain:
    """Runs of dtrain with a precision."""

    name = "dtrain"

    def __init__(self, machine, precision, model, data):
        self.machine, self.precision = machine, precision
        self.options = ["--model", model, "--data", data, "--precision", precision]

    def measure(self, batch, steps):
        command = [self.machine.dtrain, "--backend", "cuda", "--batch-size", str(batch)]
        command += ["--steps", str(steps), "--eval-every", "1000000000", "--validation-size", "0"]
        ended = self.machine.run([*command, "--checkpoint-dir", "none", *self.options])
        found = re.search(r"^Trained .*: (\d+) images/s", ended.out, re.M)
        if ended.status != 0 or not found or int(found.group(1)) == 0:
            raise RuntimeError(ended.why())
        return 1e3 * batch / int(found.group(1))


class Timings:
    """Starts the peers, which take long to get ready; run() is for when they are."""

    def __init__(self, machine, sizes, torch_works):
        self.machine = machine
        self.batches = (64, 4096, 512, 16384)
        self.scratch = tempfile.TemporaryDirectory()
        self.model, samples = "mnist-cnn", 60000
        device, precisions = "cuda", ("tf32", "bf16")
        forms = {
            "eager": [],
            "compiled": ["--compile"],
            "graphed": ["--graphed"],
            "compiled graphed": ["--compile", "--graphed"],
        }
        if machine.rehearse:
            self.batches, device, precisions = (8, 16), "cpu", ("fp32",)
            forms = {"eager": []}
            self.model, self.data = sizes.tiny, sizes.data
        else:
            self.data = self.make_data(samples)
        rows = [(name, precision) for name in forms for precision in precisions]
        if not machine.rehearse:
            rows.append(("graphed", "fp32"))
        self.peers = []
        for name, precision in rows if torch_works else []:
            options = ["--device", device, "--precision", precision, "--model", self.model]
            options += ["--data", self.data, "--samples", str(samples), "--warmup", "10"]
            self.peers.append(Peer(machine, "torch " + name, precision, options + forms[name]))
        for peer in self.peers:
            for batch in self.batches:
                peer.ask(batch, 5)

    def make_data(self, samples):
        """MNIST, or else the same noise for all; without numpy there are no peers."""
        if os.environ.get("DTRAIN_DATA"):
            return os.environ["DTRAIN_DATA"]
        writer = os.path.join(PEERS, "workload.py")
        command = [machines.python(), writer, self.model, self.scratch.name, str(samples)]
        made = subprocess.run(command, capture_output=True, check=False)
        return self.scratch.name if made.returncode == 0 else "synthetic"

    def end(self):
        for peer in self.peers:
            peer.end()
        self.scratch.cleanup()

    def give_up(self, peer):
        """Of one that is late: it must not disturb the others, nor answer the next question."""
        if peer in self.peers:
            self.peers.remove(peer)
            peer.end()

    def get_ready(self, details):
        """The milliseconds of a first trial, of the peers that work."""
        trial = {}
        limit = time.monotonic() + 0.4 * self.machine.left_s()
        for peer in list(self.peers):
            for batch in self.batches:
                try:
                    trial[peer, batch] = peer.answer(limit - time.monotonic())
                except (RuntimeError, queue.Empty) as error:
                    self.tell(details, peer, batch, error)
        return trial

    def tell(self, details, row, batch, error):
        late = isinstance(error, queue.Empty)
        reason = "not ready in time" if late else str(error)
        details["unavailable"].append(f"{row.name} {row.precision}, {batch}: {reason}")
        if late:
            self.give_up(row)

    def measure(self, row, batch, trial):
        """A run of about half a second, or a second where a program starts anew."""
        least, most, wanted_ms = 20, 2000, 500
        if isinstance(row, Dtrain):
            least, most, wanted_ms = 50, 10000, 1000
        if self.machine.rehearse:
            least, most = 3, 3
        steps = int(min(most, max(least, wanted_ms / trial[row, batch])))
        if isinstance(row, Dtrain):
            return row.measure(batch, steps)
        row.ask(batch, steps)
        return row.answer(min(20, self.machine.left_s()))

    def run(self):
        details = {"unavailable": [], "rows": []}
        trial = self.get_ready(details)
        dtrains = [Dtrain(self.machine, p, self.model, self.data) for p in ("tf32", "bf16", "fp32")]
        for row in dtrains:
            for batch in self.batches:
                try:
                    steps = 3 if self.machine.rehearse else max(20, 40000 // batch)
                    trial[row, batch] = row.measure(batch, steps)
                except RuntimeError as error:
                    self.tell(details, row, batch, error)
        times = {key: [] for key in trial}
        round_s = 0.0
        for number in range(ROUNDS):
            start = time.monotonic()
            if number > 0 and self.machine.left_s() < 1.2 * round_s + 20:
                break
            for batch in self.batches:
                for row in dtrains + self.peers:
                    ended = row not in dtrains + self.peers
                    if ended or (row, batch) not in trial or self.machine.left_s() < 5:
                        continue
                    try:
                        times[row, batch].append(self.measure(row, batch, trial))
                    except (RuntimeError, queue.Empty) as error:
                        self.tell(details, row, batch, error)
                        del trial[row, batch]
            round_s = time.monotonic() - start
        self.collect(details, dtrains, times)
        details["kernels"] = self.profile(dtrains[0]) if not self.machine.rehearse else {}
        rows = len(details["rows"])
        well = any(row["program"] == "dtrain" for row in details["rows"])
        return well, f"{rows} rows, {len(details['unavailable'])} not available", details

    def collect(self, details, dtrains, times):
        middle = {key: statistics.median(values) for key, values in times.items() if values}
        for batch in sorted(self.batches):
            for row in dict.fromkeys(key[0] for key in times):
                if (row, batch) not in middle:
                    continue
                own = [d for d in dtrains if d.precision == row.precision]
                base = middle.get((own[0], batch)) if own else None
                values = times[row, batch]
                details["rows"].append(
                    {
                        "batch": batch,
                        "program": row.name,
                        "precision": row.precision,
                        "ms": middle[row, batch],
                        "min_ms": min(values),
                        "max_ms": max(values),
                        "runs": len(values),
                        "images_per_s": 1e3 * batch / middle[row, batch],
                        "of_dtrain": middle[row, batch] / base if base else None,
                    }
                )

    def profile(self, row):
        """The kernels' shares of dtrain's time, by Nsight Systems."""
        folders = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-systems/bin")
        nsys = machines.find_program("nsys", *folders)
        if nsys is None:
            return {"why": "nsys is not there"}
        found = {}
        for batch in (64, 4096):
            report = os.path.join(self.machine.out, f"nsys-{batch}")
            command = [nsys, "profile", "-t", "cuda", "--cuda-graph-trace=node", "-f", "true"]
            command += ["-o", report, self.machine.dtrain, "--backend", "cuda", *row.options]
            command += ["--batch-size", str(batch), "--steps", "200", "--eval-every", "1000000000"]
            command += ["--validation-size", "0", "--checkpoint-dir", "none"]
            self.machine.run(command, limit_s=30)
            stats = [nsys, "stats", "-q", "-r", "cuda_gpu_kern_sum", "-f", "csv"]
            ended = self.machine.run([*stats, report + ".nsys-rep"], limit_s=30)
            table = ended.out[ended.out.find("Time (%)") :]
            found[batch] = [
                {
                    "share": line["Time (%)"],
                    "ns": line["Avg (ns)"],
                    "calls": line["Instances"],
                    "kernel": line["Name"][:100],
                }
                for line in list(csv.DictReader(io.StringIO(table)))[:14]
                if line.get("Name")
            ] or ended.why()
        return found


def table(details):
    lines = ["batch  program                 precision   ms/step     min     max  runs  x dtrain"]
    for row in details["rows"]:
        ratio = f"{row['of_dtrain']:9.2f}" if row["of_dtrain"] else "        -"
        lines.append(
            f"{row['batch']:5d}  {row['program']:23s} {row['precision']:9s} {row['ms']:9.4f}"
            f" {row['min_ms']:7.3f} {row['max_ms']:7.3f} {row['runs']:5d} {ratio}"
        )
    lines += [f"not available: {text}" for text in details["unavailable"]]
    for batch, kernels in details["kernels"].items():
        if isinstance(kernels, str):
            lines.append(f"kernels of dtrain: {batch}: {kernels}")
            continue
        lines.append(f"kernels of dtrain, tf32, batch {batch}:")
        for kernel in kernels:
            lines.append(
                f"  {kernel['share']:>5} % {kernel['ns']:>10} ns x {kernel['calls']:>6}"
                f"  {kernel['kernel']}"
            )
    return lines
