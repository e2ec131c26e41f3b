"""The machine that is checked: its programs and libraries, and how commands are run on it."""

import glob
import os
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREPARED = os.path.join(ROOT, "build", "gpu_check")


class Ended:
    """How a command ended: its exit status (None: it was killed at its time limit) and output."""

    def __init__(self, command, status, out, seconds):
        self.command, self.status, self.out, self.seconds = command, status, out, seconds

    def why(self):
        """Why it failed, in a line."""
        if self.status is None:
            return f"did not end within {self.seconds:.0f} s"
        lines = [line.strip() for line in self.out.splitlines() if line.strip()]
        said = [line for line in lines if "error" in line.lower() or line.startswith("dtrain:")]
        return f"status {self.status}: {(said or lines or ['no output'])[-1][:300]}"


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Machine:
    """Runs commands within the time that is left, and keeps what they print in a folder."""

    def __init__(self, out, rehearse):
        self.out, self.rehearse = out, rehearse
        self.deadline = None
        self.count = 0
        self.programs = PREPARED
        self.dtrain = os.path.join(PREPARED, "alone", "dtrain")
        self.dtrain_mpi = os.path.join(PREPARED, "mpi", "dtrain")
        self.plugin = os.path.join(PREPARED, "alone", "libdtrain_cuda.so")
        self.tests = {
            name: os.path.join(PREPARED, "tests", "test_gpu_" + name)
            for name in ("kernels", "conv", "replica")
        }
        if rehearse:
            self.plugin = os.path.abspath(os.environ["DTRAIN_PLUGIN"])
            folder = os.path.dirname(self.plugin)
            self.tests = {name: os.path.join(folder, "test_cuda_" + name) for name in self.tests}
        self.environment = dict(os.environ, DTRAIN_PLUGIN=self.plugin)
        libraries = [os.path.join(PREPARED, "lib")] + cuda_folders()
        if not find_library("libstdc++.so.6"):
            libraries.append(os.path.join(PREPARED, "lib", "gcc"))
        self.libraries = libraries
        self.environment["LD_LIBRARY_PATH"] = ":".join(
            libraries + [p for p in [os.environ.get("LD_LIBRARY_PATH")] if p]
        )

    def left_s(self):
        """Seconds until the step at hand has to end."""
        return max(0.0, self.deadline - time.monotonic())

    def run(self, command, limit_s=None, environment=None, **variables):
        """Runs a command to its end, or to the time limit."""
        limit_s = min(self.left_s(), limit_s or self.left_s())
        environment = dict(environment or self.environment, **variables)
        self.count += 1
        log = os.path.join(self.out, "log", f"{self.count:03d}.txt")
        start = time.monotonic()
        with open(log, "w+", encoding="utf-8", errors="replace") as file:
            print("$", " ".join(command), *(f"{n}={v}" for n, v in variables.items()), file=file)
            file.flush()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=self.out,
                    start_new_session=True,
                )
            except OSError as error:
                return Ended(command, 127, str(error), 0)
            try:
                status = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                kill_group(process)  # also children that it has left
                process.wait()
            file.seek(0)
            text = file.read().split("\n", 1)[1]
        return Ended(command, status, text, time.monotonic() - start)


def find_library(name):
    """Whether the system's loader knows a library."""
    for loader in ("ldconfig", "/sbin/ldconfig"):
        try:
            known = subprocess.run([loader, "-p"], capture_output=True, text=True, check=False)
            return name in known.stdout
        except OSError:
            continue
    return bool(glob.glob(f"/usr/lib*/{name}") + glob.glob(f"/usr/lib/*/{name}"))


def cuda_folders():
    """Where cuBLAS and NCCL may be: a toolkit's folders, then those of Python's packages."""
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "NCCL_HOME")]
    roots = [root for root in roots if root] + ["/usr/local/cuda", "/opt/cuda"]
    folders = []
    for root in roots:
        folders += [os.path.join(root, "lib64"), os.path.join(root, "lib")]
        folders.append(os.path.join(root, "targets", "x86_64-linux", "lib"))
    for packages in site_packages():
        folders += sorted(glob.glob(os.path.join(packages, "nvidia", "*", "lib")))
        folders.append(os.path.join(packages, "torch", "lib"))
    needed = ("libcublas.so", "libcublasLt.so", "libnccl.so")
    return [
        folder
        for folder in folders
        if any(glob.glob(os.path.join(folder, name + "*")) for name in needed)
    ]


def site_packages():
    """Folders with packages of the Python that has PyTorch."""
    code = "import sys; print(*sys.path, sep='\\n')"
    try:
        said = subprocess.run([python(), "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [path for path in said.stdout.split("\n") if path.endswith("-packages")]


def python():
    return os.environ.get("DTRAIN_TORCH_PYTHON") or sys.executable


def find_program(name, *folders):
    """The path of a program, None without it."""
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return shutil.which(name)
