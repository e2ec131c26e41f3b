"""Whether what the GPU computes is right. A step returns whether all was well, a line that says
what was found, and details."""

import os
import re
import tempfile
from random import Random

import machine as machines

PRECISIONS = ("fp32", "tf32", "bf16")
SIDE = 28
TINY = """input 28 28 1
conv 4 5x5 relu
maxpool 2
conv 6 3x3 relu stride 2
dense 24 relu
dropout 0.5
dense 10
"""


class Sizes:
    """How much is computed; rehearsals on an emulated GPU are small.

    Small differences grow least, and so real ones show best, at a small rate and with images of
    noise: in flat ones many values of a max-pool's window are equal but for their rounding."""

    def __init__(self, rehearse):
        self.scratch = tempfile.TemporaryDirectory()
        self.data = self.scratch.name
        self.tiny = os.path.join(self.data, "tiny.txt")
        with open(self.tiny, "w", encoding="utf-8") as file:
            file.write(TINY)
        self.model, self.validation = "mnist-cnn", 64
        self.batch, self.steps, self.many_steps, self.rate = 64, 50, 300, "0.001"
        if rehearse:
            self.model, self.validation, self.rate = self.tiny, 20, "0.05"
            self.batch, self.steps, self.many_steps = 8, 6, 12
        self.make_noise("train", self.validation + 50 * self.batch)
        self.make_noise("t10k", 64)
        self.reference = None

    def make_noise(self, split, count):
        """IDX files of noise over a pattern per class."""
        random = Random(split)
        patterns = [random.randbytes(SIDE * SIDE) for _ in range(10)]
        labels = bytes(random.randrange(10) for _ in range(count))
        images = b"".join(
            bytes((a >> 1) + (b >> 1) for a, b in zip(random.randbytes(SIDE * SIDE), patterns[k]))
            for k in labels
        )
        for kind, dims, content in (
            ("images-idx3", (count, SIDE, SIDE), images),
            ("labels-idx1", (count,), labels),
        ):
            path = os.path.join(self.data, f"{split}-{kind}-ubyte")
            with open(path, "wb") as file:
                file.write(bytes((0, 0, 8, len(dims))))
                file.write(b"".join(size.to_bytes(4, "big") for size in dims) + content)

    def job(self, steps, every=1):
        """Options of a training that prints the loss of every step, or some."""
        return [
            *("--model", self.model, "--data", self.data, "--lr", self.rate),
            *("--validation-size", str(self.validation), "--batch-size", str(self.batch)),
            *("--steps", str(steps), "--eval-every", str(every)),
            *("--checkpoint-dir", "none", "--watchdog", "0"),
        ]


def losses(ended):
    return [float(text) for text in re.findall(r"^Minibatch loss: ([^,]+),", ended.out, re.M)]


def weights(ended):
    found = re.search(r"^Weights: (\w+)", ended.out, re.M)
    return found.group(1) if found else None


def differences(found, expected):
    return [abs(a - b) for a, b in zip(found, expected)]


def check_kernels(machine, _):
    """The unit tests of all kernels and of the replica, in one process each; where one fails, again
    with a process per test, which keeps an error on the device from spreading."""
    details, well, checks = {}, True, 0
    for name, program in machine.tests.items():
        if not os.access(program, os.X_OK):
            details[name], well = {"status": None, "why": "not built"}, False
            continue
        ended = machine.run([program], CK_FORK="no")
        if ended.status not in (0, 77):
            ended = machine.run([program], CK_FORK="yes")
        counts = re.search(r"Checks: (\d+), Failures: (\d+), Errors: (\d+)", ended.out)
        failed = re.findall(r"^\S+:\d+:[FE]:.*$", ended.out, re.M)
        details[name] = {"seconds": ended.seconds, "status": ended.status, "failed": failed[:20]}
        if counts:
            checks += int(counts.group(1))
            details[name].update(zip(("checks", "failures", "errors"), map(int, counts.groups())))
        if ended.status != 0:
            well = False
            details[name]["why"] = ended.why()
    failing = [name for name, detail in details.items() if detail["status"] != 0]
    return well, f"{checks} checks" + "".join(f", {name} fails" for name in failing), details


def tolerances(reference, others):
    """What the losses of each step may differ by. Two correct float32 programs differ, as they add
    in different orders, and the differences grow from step to step. How much they do, the CPU's own
    kernels show that add in other orders: three times the most that two of them have differed by so
    far, and a unit in the last place that is printed, as rounding can tear equal numbers apart."""
    bounds, most = [], 0.0
    for i in range(len(reference)):
        most = max([most] + [abs(other[i] - reference[i]) for other in others if i < len(other)])
        bounds.append(0.001 + 3 * most + 1e-9)
    return bounds


def train(machine, sizes, options, steps=None, every=1):
    """Trains; raises what is wrong if that fails."""
    command = [machine.dtrain, *sizes.job(steps or sizes.steps, every), *options]
    ended = machine.run(command)
    if ended.status != 0 or weights(ended) is None:
        raise RuntimeError(f"dtrain {' '.join(options)}: {ended.why()}")
    return ended


def reference(machine, sizes):
    """The CPU's losses, step by step, and what others may differ from them by."""
    if sizes.reference is None:
        cpu = losses(train(machine, sizes, ["--backend", "cpu"]))
        others = []
        for variant in (["--kernels", "onednn"], ["--isa", "avx2"]):
            try:
                others.append(losses(train(machine, sizes, ["--backend", "cpu", *variant])))
            except RuntimeError:  # a CPU without AVX2
                pass
        if len(cpu) != sizes.steps or not others:
            raise RuntimeError("the CPU's own losses are missing")
        sizes.reference = cpu, tolerances(cpu, others)
    return sizes.reference


def compare(found, expected, bounds):
    """The largest difference, and whether all steps are there and none differs by too much."""
    apart = differences(found, expected)
    well = len(found) == len(expected) and all(d <= bound for d, bound in zip(apart, bounds))
    return max(apart), well


def check_trajectory(machine, sizes):
    """The losses of the first steps against the CPU's."""
    cpu, bounds = reference(machine, sizes)
    details, said, well = {"cpu": cpu, "tolerance": bounds}, [], True
    for precision in PRECISIONS:
        ended = train(machine, sizes, ["--backend", "cuda", "--precision", precision])
        details[precision] = losses(ended)
        most, close = compare(details[precision], cpu, bounds)
        said.append(f"{precision} {most:.3f}")
        well = well and (close or precision != "fp32")  # the others round factors
    return (
        well,
        f"{len(cpu)} steps, losses differ from the CPU's by at most {', '.join(said)};"
        f" fp32 may by {bounds[0]:.3f} to {bounds[-1]:.3f}",
        details,
    )


def check_repeats(machine, sizes):
    """The same command gives the same weights."""
    details, well = {}, True
    for precision in PRECISIONS:
        for steps in (sizes.steps, sizes.many_steps):
            options = ["--backend", "cuda", "--precision", precision]
            pair = [weights(train(machine, sizes, options, steps, steps)) for _ in range(2)]
            details[f"{precision}, {steps} steps"] = pair
            well = well and pair[0] == pair[1]
    different = [name for name, pair in details.items() if pair[0] != pair[1]]
    return well, "the same weights twice" if well else f"different: {', '.join(different)}", details


def check_nccl(machine, sizes):
    """One rank by NCCL, and two that share the GPU, by MPI."""
    details, well, said = {}, True, []
    cuda = ["--backend", "cuda", "--precision", "fp32"]
    cpu, bounds = reference(machine, sizes)
    if "--comm" not in machine.run([machine.dtrain, "--help"]).out:
        said.append("--comm is not there")
    else:
        pair = [train(machine, sizes, [*cuda, "--comm", comm]) for comm in ("nccl", "mpi")]
        same = weights(pair[0]) == weights(pair[1])
        most, close = compare(losses(pair[0]), cpu, bounds)
        details["nccl"], details["mpi"] = map(losses, pair)
        well = close
        said.append(
            f"one rank by NCCL: {most:.3f} from the CPU's losses,"
            f" {'the same' if same else 'other'} weights as by MPI"
        )
    launcher, environment = find_launcher(machine)
    if launcher is None:
        return well, "; ".join(said + [environment]), details
    options = [*cuda, "--allow-gpu-sharing", "--threads", "2"]
    command = [*launcher, machine.dtrain_mpi, *sizes.job(sizes.steps), *options]
    pair = [machine.run(command, environment=environment) for _ in range(2)]
    for ended in pair:
        if ended.status != 0:
            raise RuntimeError(f"two ranks: {ended.why()}")
    details["two ranks"] = losses(pair[0])
    same = weights(pair[0]) == weights(pair[1])
    most, close = compare(losses(pair[0]), cpu, bounds)
    said.append(
        f"two ranks on the GPU: {most:.3f} from the CPU's losses,"
        f" {'the same' if same else 'OTHER'} weights twice"
    )
    return well and same and close, "; ".join(said), details


def find_launcher(machine):
    """How two ranks are started, and with which environment; or None, and why not."""
    if not os.access(machine.dtrain_mpi, os.X_OK):
        return None, "no dtrain with MPI was prepared"
    folder = os.path.join(machines.PREPARED, "openmpi")
    own = os.path.join(folder, "bin", "mpirun")
    environment = dict(
        machine.environment,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        OMPI_MCA_btl="self,vader,tcp",
        OMPI_MCA_btl_tcp_if_include="127.0.0.1/8",
    )
    if os.access(own, os.X_OK):
        environment.update(
            LD_LIBRARY_PATH=f"{folder}/lib:{machine.environment['LD_LIBRARY_PATH']}",
            OPAL_PREFIX=folder,
            OMPI_MCA_plm="isolated",  # no ssh
            OMPI_MCA_mca_base_component_path=os.path.join(folder, "components"),
            PMIX_MCA_mca_base_component_path=os.path.join(folder, "pmix"),
            OPAL_PKGDATADIR=os.path.join(folder, "share"),
        )
    mpirun = machines.find_program("mpirun", os.path.dirname(own))
    if mpirun is None:
        return None, "no mpirun"
    launcher = [mpirun, "--bind-to", "none", "-n", "2"]
    trial = ["--data", "synthetic:200", "--validation-size", "20", "--backend", "cpu", "--dry-run"]
    ended = machine.run(
        [*launcher, machine.dtrain_mpi, *trial], limit_s=30, environment=environment
    )
    if ended.status != 0 or " on 2 ranks " not in ended.out:
        return None, f"MPI does not work here: {ended.why()}"
    return launcher, environment


def check_sanitizer(machine, sizes):
    """compute-sanitizer over the kernels' tests and a tiny training."""
    roots = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda", "/opt/cuda"]
    folders = [os.path.join(root, sub) for root in roots for sub in ("bin", "compute-sanitizer")]
    program = machines.find_program("compute-sanitizer", *folders)
    if program is None or machine.rehearse:
        return None, "compute-sanitizer is not there", {}
    training = [machine.dtrain, *sizes.job(3), "--model", sizes.tiny, "--batch-size", "8"]
    details, well = {}, True
    for tool in ("memcheck", "racecheck", "synccheck"):
        for name, command in (
            ("training", [*training, "--backend", "cuda"]),
            ("kernels", [machine.tests["kernels"]]),
            ("conv", [machine.tests["conv"]]),
        ):
            ended = machine.run(
                [program, "--tool", tool, "--error-exitcode", "99", *command],
                limit_s=40,
                CK_FORK="no",
            )
            found = re.findall(r"ERROR SUMMARY: (\d+)|RACECHECK SUMMARY: (\d+)", ended.out)
            count = sum(int(a or b) for a, b in found)
            details[f"{tool} {name}"] = (
                "well" if ended.status == 0 and count == 0 else ended.why()
            )
            # Slow is no fault of the kernels.
            well = well and (ended.status is None or (ended.status == 0 and count == 0))
    done = sum(text == "well" for text in details.values())
    faults = [name for name, text in details.items() if text != "well"]
    said = f"{done} of {len(details)} without a fault" + "".join(f"; {name}" for name in faults)
    return well, said, details
