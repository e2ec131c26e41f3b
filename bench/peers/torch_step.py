#!/usr/bin/env python3
"""Times dtrain's training step in PyTorch.

    torch_step.py [--compile] [--ddp PROCESSES] [OPTION]...
    torch_step.py --device cuda [--compile] [--graphed] [--precision tf32|bf16|fp32] [OPTION]...

With --ddp it starts that many processes, unless it is one of those that torchrun started. Prints
one line: milliseconds a step, and the loss, which shows that it learns. With --serve it says
"ready", and then does so for each line "BATCH STEPS" on standard input.
"""

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta

import torch
from torch import nn
from torch.nn import functional

import workload


class Network(nn.Module):
    """The layers of a dtrain model, on images [n, c, h, w]."""

    def __init__(self, layers, pool):
        super().__init__()
        self.layers, self.pool = layers, pool
        self.weights = nn.ModuleList(self.make(layer) for layer in layers)

    @staticmethod
    def make(layer):
        """A layer's parameters; as dtrain, kernels start truncated normal."""
        if layer.kind == "conv":
            top, bottom, left, right = layer.padding
            even = top == bottom and left == right
            made = nn.Conv2d(
                layer.inputs[2],
                layer.outputs,
                layer.kernel,
                layer.stride,
                padding=(top, left) if even else 0,
            )
        elif layer.kind == "dense":
            height, width, channels = layer.inputs
            made = nn.Linear(height * width * channels, layer.outputs)
        else:
            return nn.Identity()
        nn.init.trunc_normal_(made.weight, std=0.1, a=-0.2, b=0.2)
        nn.init.constant_(made.bias, 0.1)
        return made

    def forward(self, x):
        for layer, weights in zip(self.layers, self.weights):
            if layer.kind == "conv":
                top, bottom, left, right = layer.padding
                if top != bottom or left != right:
                    x = functional.pad(x, (left, right, top, bottom))
                x = weights(x)
            elif layer.kind == "maxpool":
                x = self.pool(x, layer.kernel, layer.stride)
            elif layer.kind == "dense":
                if x.dim() == 4:  # with channels_last this copies nothing
                    x = x.permute(0, 2, 3, 1).flatten(1)
                x = weights(x)
            elif layer.kind == "dropout":
                x = functional.dropout(x, layer.rate, self.training)
            if layer.relu:
                x = functional.relu(x, inplace=True)
        return x


def max_of_slices(x, kernel, stride):
    """Max pooling, which torch.compile makes faster code of for CPUs than of its own."""
    height, width = ((size - kernel[0]) // stride * stride + 1 for size in x.shape[2:])
    result = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = x[:, :, i : i + height : stride, j : j + width : stride]
            result = part if result is None else torch.maximum(result, part)
    return result


class Loss(nn.Module):
    """From a batch of bytes to the loss."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, labels):
        scaled = (images.float() - 127.5) / 255
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        return functional.cross_entropy(self.network(scaled), labels)


def make_optimizer(network):
    """SGD in the fastest form that this PyTorch has; weight decay on the dense layers only."""
    dense = [p for m in network.weights if isinstance(m, nn.Linear) for p in m.parameters()]
    other = [p for m in network.weights if isinstance(m, nn.Conv2d) for p in m.parameters()]
    groups = [{"params": dense, "weight_decay": workload.DECAY}, {"params": other}]
    groups = [group for group in groups if group["params"]]
    for form in ({"fused": True}, {"foreach": True}, {}):
        try:
            return torch.optim.SGD(groups, workload.RATE, workload.MOMENTUM, **form)
        except (RuntimeError, TypeError):
            pass
    raise SystemExit("no SGD")


class Batches:
    """Shuffled batches of this process's part of the data, which is on the device."""

    def __init__(self, images, labels, size):
        if size > len(labels):
            raise SystemExit(f"a batch of {size} of {len(labels)} samples")
        self.images, self.labels, self.size = images, labels, size
        self.order, self.position = None, len(labels)

    def choose(self):
        if self.position + self.size > len(self.labels):
            self.order = torch.randperm(len(self.labels), device=self.labels.device)
            self.position = 0
        self.position += self.size
        return self.order[self.position - self.size : self.position]

    def take(self, chosen):
        return self.images[chosen], self.labels[chosen]


def capture(compute, batches):
    """The whole step, from the choice of samples on, as one CUDA graph."""
    chosen = batches.choose().clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(11):
            compute(*batches.take(chosen))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = compute(*batches.take(chosen))

    def step():
        chosen.copy_(batches.choose())
        graph.replay()
        return loss

    return step


def make_step(loss_of, optimizer, batches, options):
    """A function that takes a step and returns its loss."""

    def compute(images, labels):
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = loss_of(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    if options.graphed:
        return capture(compute, batches)
    return lambda: compute(*batches.take(batches.choose()))


def wait_for_all(options):
    """Until other processes, or the device, have come as far."""
    if options.ddp:
        torch.distributed.barrier()
    if options.device == "cuda":
        torch.cuda.synchronize()


def measure(step, steps, options):
    """Milliseconds of a step, and the last loss."""
    for number in range(options.warmup + steps):
        if number == options.warmup:
            wait_for_all(options)
            start = time.perf_counter()
        loss = step()
        if number % 50 == 0:
            loss.item()
    wait_for_all(options)
    return 1e3 * (time.perf_counter() - start) / steps, loss.item()


def report(options, batch, milliseconds, loss):
    version = torch.__version__.split("+", maxsplit=1)[0]
    print(
        f"torch {version} device={options.device} precision={options.precision}"
        f" ddp={options.ddp or 'no'} compiled={'yes' if options.compile else 'no'}"
        f" graphed={'yes' if options.graphed else 'no'} threads={options.threads} batch={batch}:"
        f" {milliseconds:.4f} ms/step, loss {loss:.3f}",
        flush=True,
    )


def serve(step_of, options):
    """Times what it is asked for; "failed: WHY" where it cannot."""
    steps_of = {}
    print("ready", flush=True)
    for line in sys.stdin:
        batch, steps = (int(word) for word in line.split())
        try:
            if batch not in steps_of:
                steps_of[batch] = step_of(batch)
            report(options, batch, *measure(steps_of[batch], steps, options))
        except (RuntimeError, SystemExit) as error:  # too little memory, for example
            print("failed:", " ".join(str(error).split()), flush=True)
        if options.device == "cuda":
            torch.cuda.empty_cache()  # others share the device, one at a time


def start_processes(count):
    """Runs this command once per rank; returns the first status that is not 0."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = dict(os.environ, WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    environment["MASTER_PORT"] = str(port)
    running = [
        subprocess.Popen([sys.executable] + sys.argv, env=dict(environment, RANK=str(rank)))
        for rank in range(count)
    ]
    status = 0
    while running and status == 0:
        time.sleep(0.1)
        for process in list(running):
            if process.poll() is not None:
                running.remove(process)
                status = status or process.returncode
    for process in running:
        process.terminate()
    return status


def parse_arguments():
    parser = workload.parse_arguments("Times dtrain's training step in PyTorch.")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--ddp", type=int, help="processes of DistributedDataParallel over gloo")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--graphed", action="store_true", help="a step is one CUDA graph")
    parser.add_argument("--serve", action="store_true", help="time what standard input asks for")
    options = parser.parse_args()
    if options.graphed and options.device != "cuda":
        parser.error("--graphed is for --device cuda")
    if options.ddp and (options.device != "cpu" or options.serve):
        parser.error("--ddp is for the CPU, and a single batch size")
    return options


def set_precision(precision):
    """Of products: of float32, or of its first 11 bits (bf16 is torch.autocast's)."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = True


def main():
    options = parse_arguments()
    if options.ddp and "RANK" not in os.environ:
        raise SystemExit(start_processes(options.ddp))

    torch.set_num_threads(options.threads)
    torch.manual_seed(66478)
    set_precision(options.precision)
    rank, world = 0, 1
    if options.ddp:
        torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()

    shape, layers = workload.load_model(options.model)
    images, labels = workload.load_data(
        options.data, shape, layers[-1].outputs, options.samples
    )
    images = torch.from_numpy(images[rank::world].copy()).permute(0, 3, 1, 2)
    images = images.to(options.device)
    labels = torch.from_numpy(labels[rank::world].copy()).long().to(options.device)

    # Inductor's own max-pool takes three times as long on CPUs.
    slices = options.compile and options.device == "cpu"
    network = Network(layers, max_of_slices if slices else functional.max_pool2d)
    network.to(options.device, memory_format=torch.channels_last).train()
    first = next(m for m in network.weights if not isinstance(m, nn.Identity))
    nn.init.zeros_(first.bias)
    optimizer = make_optimizer(network)
    loss_of = Loss(network)
    if options.ddp:
        loss_of = nn.parallel.DistributedDataParallel(
            loss_of, gradient_as_bucket_view=True, static_graph=True
        )
        torch.manual_seed(rank)  # other samples and dropped units on each
    if options.compile:
        loss_of = torch.compile(loss_of, dynamic=False)

    def step_of(batch):
        return make_step(loss_of, optimizer, Batches(images, labels, batch // world), options)

    if options.serve:
        serve(step_of, options)
        return
    result = measure(step_of(options.batch), options.steps, options)
    if rank == 0:
        report(options, options.batch, *result)
    if options.ddp:
        os._exit(0)  # at an ordinary exit gloo's threads abort the process at times


if __name__ == "__main__":
    main()
