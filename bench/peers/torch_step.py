#!/usr/bin/env python3
"""Times dtrain's training step in PyTorch.

    torch_step.py [--compile] [--ddp PROCESSES] [OPTION]...

With --ddp it starts that many processes, unless it is one of those that torchrun started. Prints
one line: milliseconds a step, and the loss, which shows that it learns.
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

    def __init__(self, layers, compiled):
        super().__init__()
        self.layers, self.pool = layers, functional.max_pool2d
        if compiled:
            self.pool = max_of_slices
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
    """Max pooling for torch.compile, whose own takes three times as long on CPUs."""
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
    """Shuffled batches of this process's part of the data."""

    def __init__(self, images, labels, size):
        self.images, self.labels, self.size = images, labels, size
        self.order, self.position = None, len(labels)

    def next(self):
        if self.position + self.size > len(self.labels):
            self.order, self.position = torch.randperm(len(self.labels)), 0
        chosen = self.order[self.position : self.position + self.size]
        self.position += self.size
        return self.images[chosen], self.labels[chosen]


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


def main():
    parser = workload.parse_arguments("Times dtrain's training step in PyTorch.")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--ddp", type=int, help="processes of DistributedDataParallel over gloo")
    options = parser.parse_args()
    if options.ddp and "RANK" not in os.environ:
        raise SystemExit(start_processes(options.ddp))

    torch.set_num_threads(options.threads)
    torch.manual_seed(66478)
    rank, world = 0, 1
    if options.ddp:
        torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()

    shape, layers = workload.load_model(options.model)
    images, labels = workload.load_data(options.data, shape, layers[-1].outputs)
    images = torch.from_numpy(images[rank::world].copy()).permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels[rank::world].copy()).long()
    batches = Batches(images, labels, options.batch // world)

    network = Network(layers, options.compile)
    network.to(memory_format=torch.channels_last).train()
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
        loss_of = torch.compile(loss_of)

    for step in range(options.warmup + options.steps):
        if step == options.warmup:
            if options.ddp:
                torch.distributed.barrier()
            start = time.perf_counter()
        loss = loss_of(*batches.next())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            loss.item()
    if options.ddp:
        torch.distributed.barrier()
    milliseconds = 1e3 * (time.perf_counter() - start) / options.steps

    if rank == 0:
        version = torch.__version__.split("+", maxsplit=1)[0]
        compiled = "yes" if options.compile else "no"
        print(
            f"torch {version} ddp={world if options.ddp else 'no'} compiled={compiled}"
            f" threads={options.threads} batch={options.batch}: {milliseconds:.3f} ms/step,"
            f" loss {loss.item():.3f}",
            flush=True,
        )
    if options.ddp:
        os._exit(0)  # at an ordinary exit gloo's threads abort the process at times


if __name__ == "__main__":
    main()
