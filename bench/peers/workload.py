"""What dtrain's peers train: the network, the data and the options that their scripts share.

    python3 workload.py MODEL FOLDER [COUNT]

writes COUNT random samples of the model's input shape as IDX files, which dtrain reads too.
"""

import argparse
import gzip
import os
import sys

import numpy

RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4

MNIST_CNN = """
input 28 28 1
conv 32 5x5 relu
maxpool 2
conv 64 5x5 relu
maxpool 2
dense 512 relu
dropout 0.5
dense 10
"""


def parse_arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="mnist-cnn", help="mnist-cnn, or a model file of dtrain")
    parser.add_argument("--data", default="synthetic", help="a folder with IDX files, or synthetic")
    parser.add_argument("--samples", type=int, default=4096, help="of synthetic data")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step, all processes'")
    parser.add_argument("--steps", type=int, default=100, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=20, help="steps before these")
    parser.add_argument("--threads", type=int, default=1, help="threads of a process")
    return parser


class Layer:
    """A line of the model. padding: rows above and below, columns left and right."""

    def __init__(self, words, shape):
        self.kind, self.inputs = words[0], shape
        self.relu = "relu" in words
        height, width, channels = shape
        if self.kind == "conv":
            self.outputs = int(words[1])
            self.kernel = tuple(int(side) for side in words[2].split("x"))
            self.stride = number_after("stride", words, 1)
            self.same, self.padding = "valid" not in words, (0, 0, 0, 0)
            if self.same:
                self.padding = same(height, self.kernel[0], self.stride) + same(
                    width, self.kernel[1], self.stride
                )
            channels = self.outputs
        elif self.kind == "maxpool":
            self.kernel = (int(words[1]),) * 2
            self.stride = number_after("stride", words, self.kernel[0])
            self.padding = (0, 0, 0, 0)
        elif self.kind == "dense":
            self.outputs = int(words[1])
        elif self.kind == "dropout":
            self.rate = float(words[1])
        else:
            raise SystemExit(f"unknown layer '{self.kind}'")
        if self.kind in ("conv", "maxpool"):
            top, bottom, left, right = self.padding
            height = (height + top + bottom - self.kernel[0]) // self.stride + 1
            width = (width + left + right - self.kernel[1]) // self.stride + 1
        self.shape = (1, 1, self.outputs) if self.kind == "dense" else (height, width, channels)


def number_after(word, words, default):
    return int(words[words.index(word) + 1]) if word in words else default


def same(size, kernel, stride):
    """TensorFlow's SAME padding, before and after."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def load_model(name):
    """The input's shape [h, w, c], and the layers."""
    text = MNIST_CNN
    if name != "mnist-cnn":
        with open(name, encoding="utf-8") as file:
            text = file.read()
    shape, layers = None, []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and words[0] == "input":
            shape = tuple(int(word) for word in words[1:4])
        elif words:
            layers.append(Layer(words, layers[-1].shape if layers else shape))
    return shape, layers


def read_idx(folder, name):
    path = os.path.join(folder, name)
    packed = not os.path.exists(path)
    with gzip.open(path + ".gz") if packed else open(path, "rb") as file:
        content = file.read()
    dims = content[3]
    sizes = numpy.frombuffer(content, ">i4", dims, 4)
    return numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * dims).reshape(sizes)


def write_idx(folder, name, array):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(bytes((0, 0, 8, array.ndim)))
        file.write(numpy.array(array.shape, ">i4").tobytes())
        file.write(array.tobytes())


def draw_samples(shape, classes, count):
    """Noise over a pattern per class, so that there is something to learn."""
    random = numpy.random.default_rng(1)
    patterns = random.integers(0, 128, (classes, *shape), numpy.uint8)
    labels = random.integers(0, classes, count).astype(numpy.uint8)
    images = random.integers(0, 128, (count, *shape), numpy.uint8)
    images += patterns[labels]
    return images, labels


def load_data(where, shape, classes, samples):
    """Training images [n, h, w, c] and labels [n], both bytes; `samples` where they are drawn."""
    if where == "synthetic":
        return draw_samples(shape, classes, samples)
    images = read_idx(where, "train-images-idx3-ubyte")
    images = images.reshape(len(images), *shape)
    return images.copy(), read_idx(where, "train-labels-idx1-ubyte").copy()


def main():
    model, folder = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 4096
    shape, layers = load_model(model)
    for split, samples in (("train", count), ("t10k", 64)):
        images, labels = draw_samples(shape, layers[-1].outputs, samples)
        images = images[..., 0] if shape[2] == 1 else images
        write_idx(folder, f"{split}-images-idx3-ubyte", images)
        write_idx(folder, f"{split}-labels-idx1-ubyte", labels)


if __name__ == "__main__":
    main()
