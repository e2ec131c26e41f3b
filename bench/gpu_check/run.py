#!/usr/bin/env python3
"""gpu_check.sh on the machine with a GPU: the steps, each within a time limit of its own; what they
found goes to DIR/gpu_check.json and standard output, what each command printed to DIR/log."""

import argparse
import json
import os
import platform
import re
import sys
import time
import traceback

import correct
import machine as machines
import timings

NO_GPU = 69


def probe(machine, _):
    """What there is."""
    details = {"system": platform.platform(), "glibc": platform.libc_ver()[1]}
    made = os.path.join(machines.PREPARED, "made")
    if os.path.exists(made):
        with open(made, encoding="utf-8") as file:
            details["prepared"] = file.read().splitlines()
    query = "name,uuid,driver_version,memory.total,clocks.max.sm,power.limit,mig.mode.current"
    commands = {
        "nvidia-smi": ["nvidia-smi", "--query-gpu=" + query, "--format=csv"],
        "dtrain": [machine.dtrain, "--version"],
        "devices": [machine.dtrain, "info", "--devices"],
        "nvcc": [machines.find_program("nvcc", "/usr/local/cuda/bin") or "nvcc", "--version"],
    }
    for name, command in commands.items():
        details[name] = machine.run(command).out.strip().splitlines()[-6:]
    code = (
        "import torch; print('torch', torch.__version__, torch.version.cuda,"
        " torch.backends.cudnn.version(), torch.cuda.is_available())"
    )
    ended = machine.run([machines.python(), "-c", code], environment=dict(os.environ))
    details["torch"] = ended.out.strip().splitlines()[-1:] if ended.status == 0 else ended.why()
    details["libraries"] = machine.libraries
    found = [line for line in details["devices"] if line.startswith("Device 0: ")]
    if found:
        return True, found[0][len("Device 0: ") :], details
    return False, "; ".join(details["devices"][-1:]) or "dtrain does not start", details


def run_step(machine, name, limit_s, end_s, step):
    machine.deadline = min(time.monotonic() + limit_s, end_s)
    start = time.monotonic()
    try:
        if machine.left_s() < 5:
            raise RuntimeError("no time was left")
        well, text, details = step()
    except Exception as error:  # a step fails alone
        well, text = False, f"{type(error).__name__}: {error}"
        details = {"traceback": traceback.format_exc()}
    status = {True: "passed", False: "FAILED", None: "skipped"}[well]
    seconds = time.monotonic() - start
    print(f"{status:8s}{name:12s}{seconds:6.1f} s  {text}", flush=True)
    return {"step": name, "status": status, "seconds": seconds, "text": text, "details": details}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("OUT") or os.path.join(machines.ROOT, "build", "gpu_check_results")
    parser.add_argument("--out", default=default, help="folder for results; $OUT")
    parser.add_argument("--limit", type=float, default=470, help="seconds for everything")
    parser.add_argument(
        "--rehearse", action="store_true", help="small, on the emulated GPU of $DTRAIN_PLUGIN"
    )
    options = parser.parse_args()
    end_s = time.monotonic() + options.limit
    os.makedirs(os.path.join(options.out, "log"), exist_ok=True)
    out = os.path.abspath(options.out)
    machine = machines.Machine(out, options.rehearse)
    sizes = correct.Sizes(options.rehearse)
    results = []

    def step(name, limit_s, function):
        results.append(run_step(machine, name, limit_s, end_s, function))
        with open(os.path.join(out, "gpu_check.json"), "w", encoding="utf-8") as file:
            json.dump({"rehearsal": options.rehearse, "steps": results}, file, indent=1)

    step("probe", 60, lambda: probe(machine, sizes))
    if results[0]["status"] != "passed":
        print(f"gpu_check: there is no GPU to check: {results[0]['text']}", file=sys.stderr)
        return NO_GPU
    said = str(results[0]["details"]["torch"])
    works = re.search(r"torch .* True'" if not options.rehearse else "torch ", said) is not None
    peers = timings.Timings(machine, sizes, works)
    try:
        step("kernels", 90, lambda: correct.check_kernels(machine, sizes))
        step("trajectory", 60, lambda: correct.check_trajectory(machine, sizes))
        step("repeats", 60, lambda: correct.check_repeats(machine, sizes))
        step("nccl", 60, lambda: correct.check_nccl(machine, sizes))
        step("timings", 220, peers.run)
    finally:
        peers.end()
    step("sanitizer", 120, lambda: correct.check_sanitizer(machine, sizes))
    if results[-2]["details"].get("rows"):
        print("\n".join(["", *timings.table(results[-2]["details"])]))
    failed = [result["step"] for result in results if result["status"] == "FAILED"]
    passed = sum(result["status"] == "passed" for result in results)
    print(f"\n{passed} steps passed, {len(failed)} failed; {out}/gpu_check.json")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
