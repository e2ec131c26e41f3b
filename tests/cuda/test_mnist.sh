#!/bin/sh
# test_mnist.sh DTRAIN PLUGIN: the tutorial's network on real digits, 50 steps of 8 on the CUDA backend,
# in a plugin in which the CPU stands for a GPU: loss for loss what the CPU backend reports. Skipped
# without MNIST.
#
# Rounding differs, and now and then decides which of two almost equal values is the largest of a
# window; from there on two trainings drift apart, also those of two CPU kernels. So it is the
# reference's, which round as little as the GPU's, and the first 30 steps have to agree closely, all
# of them roughly.
set -eu
dtrain=$1
plugin=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
[ -n "${DTRAIN_DATA:-}" ] || exit 77

# The first digits of each file.
mkdir "$work/digits"
python3 - "$DTRAIN_DATA" "$work/digits" <<'PYTHON'
import gzip, os, struct, sys

def cut(name, count, header, size):
    path = os.path.join(sys.argv[1], name)
    with open(path, 'rb') if os.path.exists(path) else gzip.open(path + '.gz') as file:
        head = file.read(header)
        with open(os.path.join(sys.argv[2], name), 'wb') as out:
            out.write(head[:4] + struct.pack('>i', count) + head[8:] + file.read(count * size))

for split, count in ('train', 400), ('t10k', 64):
    cut(split + '-images-idx3-ubyte', count, 16, 28 * 28)
    cut(split + '-labels-idx1-ubyte', count, 8, 1)
PYTHON

losses()
{
    sed -n 's/^Minibatch loss: \([^,]*\),.*/\1/p' "$out"
}
agree() # STEPS MOST
{
    paste "$work/cpu" "$work/cuda" | awk -v steps="$1" -v most="$2" '
        NR <= steps { d = $1 - $2; if (d < -most || d > most || NF != 2) { print NR - 1, $0; bad = 1 } }
        END { exit bad || NR != 50 }'
}
set -- --data digits --validation-size 0 --batch-size 8 --steps 50 --eval-every 1 --lr 0.001 \
    --checkpoint-dir none --watchdog 0
job 1 "$@" --backend cpu --kernels reference
check 'the CPU trains' [ "$status" -eq 0 ]
losses >"$work/cpu"
export DTRAIN_PLUGIN="$plugin" DTRAIN_FAKE_STRICT=1
job 1 "$@" --backend cuda --precision fp32
check 'the GPU trains' [ "$status" -eq 0 ]
losses >"$work/cuda"
check 'the first losses are the same' agree 30 0.002
check 'and the others not far apart' agree 50 0.05
finish
