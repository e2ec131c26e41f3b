#!/usr/bin/env python3
"""Times dtrain's training step in TensorFlow: a Keras network in a loop of our own.

    keras_step.py [--jit] [OPTION]...

The loop is a tf.function of several steps, which is faster than Model.fit(); so is TensorFlow's
momentum operation than Keras's optimizer. Prints one line: milliseconds a step, and the loss, which
shows that it learns.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# pylint: disable=wrong-import-position
import keras
import numpy
import tensorflow as tf

import workload

STEPS_PER_CALL = 10


def make_network(shape, layers):
    """Kernels start truncated normal, biases at 0.1 but for the first layer's, as dtrain's do."""
    network = keras.Sequential([keras.Input(shape)])
    bias = "zeros"
    for layer in layers:
        common = {
            "activation": "relu" if layer.relu else None,
            "kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.1),
            "bias_initializer": bias,
        }
        if layer.kind == "conv":
            padding = "same" if layer.same else "valid"
            added = keras.layers.Conv2D(
                layer.outputs, layer.kernel, layer.stride, padding, **common
            )
        elif layer.kind == "maxpool":
            added = keras.layers.MaxPooling2D(layer.kernel, layer.stride)
        elif layer.kind == "dense":
            if len(network.output_shape) > 2:
                network.add(keras.layers.Flatten())
            added = keras.layers.Dense(layer.outputs, **common)
        else:
            added = keras.layers.Dropout(layer.rate)
        network.add(added)
        if layer.kind in ("conv", "dense"):
            bias = keras.initializers.Constant(0.1)
    return network


def make_training(network, images, labels, jit):
    """A function that takes a step for each row of samples, and returns the last loss."""
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    decayed = {id(variable) for layer in dense for variable in layer.trainable_variables}
    variables = network.trainable_variables
    momenta = [tf.Variable(tf.zeros(variable.shape)) for variable in variables]

    @tf.function(jit_compile=jit)
    def step(chosen):
        batch = (tf.cast(tf.gather(images, chosen), tf.float32) - 127.5) / 255
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.gather(labels, chosen), logits=network(batch, training=True)
            )
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        for variable, gradient, momentum in zip(variables, gradients, momenta):
            if id(variable) in decayed:
                gradient += workload.DECAY * variable.value
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.value.handle,
                accum=momentum.handle,
                lr=workload.RATE,
                grad=gradient,
                momentum=workload.MOMENTUM,
            )
        return loss

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def train(rows):
        loss = 0.0
        for i in tf.range(tf.shape(rows)[0]):
            loss = step(rows[i])
        return loss

    return train


class Batches:
    """Shuffled batches, as numbers of samples."""

    def __init__(self, count, size):
        self.count, self.size = count, size
        self.order, self.position = None, count

    def next(self):
        if self.position + self.size > self.count:
            self.order = numpy.random.permutation(self.count).astype("int32")
            self.position = 0
        chosen = self.order[self.position : self.position + self.size]
        self.position += self.size
        return chosen


def run(train, batches, steps):
    loss = 0.0
    for first in range(0, steps, STEPS_PER_CALL):
        count = min(STEPS_PER_CALL, steps - first)
        loss = train(tf.constant(numpy.stack([batches.next() for _ in range(count)])))
    return float(loss)


def main():
    parser = workload.parse_arguments("Times dtrain's training step in TensorFlow.")
    parser.add_argument("--inter", type=int, help="operations at a time; as --threads unless given")
    parser.add_argument("--jit", action="store_true", help="through XLA")
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.inter or options.threads)
    keras.utils.set_random_seed(66478)

    shape, layers = workload.load_model(options.model)
    images, labels = workload.load_data(
        options.data, shape, layers[-1].outputs, options.samples
    )
    batches = Batches(len(labels), options.batch)
    network = make_network(shape, layers)
    train = make_training(
        network, tf.constant(images), tf.constant(labels.astype("int32")), options.jit
    )

    run(train, batches, options.warmup)
    start = time.perf_counter()
    loss = run(train, batches, options.steps)
    milliseconds = 1e3 * (time.perf_counter() - start) / options.steps
    print(
        f"tensorflow {tf.__version__} keras {keras.__version__} jit={'yes' if options.jit else 'no'}"
        f" threads={options.threads} batch={options.batch}: {milliseconds:.3f} ms/step,"
        f" loss {loss:.3f}"
    )


if __name__ == "__main__":
    main()
