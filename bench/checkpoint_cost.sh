#!/bin/bash
# checkpoint_cost.sh: what checkpoints every 100 steps cost the training: runs with and without them,
# in turns, on one rank with two threads and on two ranks. The default network; MNIST where it can be
# found, else the built-in digits. The checkpoints go below build/, to the checkout's own disk.
#
#   bench/checkpoint_cost.sh [PAIRS [STEPS]]     9 and 1000 unless given
#
# Uses build/release. Prints medians, and the quartiles of the ratios of neighbouring runs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
esac
pairs=${1:-9} steps=${2:-1000} batch=64
build release dtrain --buildtype=release || die 1 "the build failed (log: build/release.log)"
mpi_environment
find_data
work=$(mktemp -d "$root/build/checkpoints.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Milliseconds a step, from the images a second, which have more digits.
ms() # RANKS FOLDER
{
    rm -rf "$work/run"
    mpirun --bind-to none -n "$1" "$root/build/release/dtrain" --threads $((3 - $1)) \
        --steps "$steps" --batch-size "$batch" --eval-every 100000 --validation-size 0 \
        --checkpoint-every 100 --checkpoint-dir "$2" |
        sed -n 's/^Trained .* \([0-9]*\) images\/s.*/\1/p' |
        awk -v batch="$batch" '{ print 1000 * batch / $1 }'
}

# Either one is first in every other pair.
for ((i = 0; i < pairs; i++)); do
    for ranks in 1 2; do
        if ((i % 2)); then
            with=$(ms "$ranks" "$work/run") without=$(ms "$ranks" none)
        else
            without=$(ms "$ranks" none) with=$(ms "$ranks" "$work/run")
        fi
        echo "$ranks $without $with"
    done
done >"$work/pairs"

# quantile COLUMN SHARE: of the numbers in a column of what is read.
quantile()
{
    awk -v column="$1" '{ print $column }' | sort -g |
        awk -v share="$2" '{ value[NR] = $1 } END { print value[1 + int(share * (NR - 1) + 0.5)] }'
}

echo '| ranks x threads | without, ms/step | with, ms/step | ratio of a pair: median (quartiles) |'
echo '| --- | --- | --- | --- |'
for ranks in 1 2; do
    awk -v ranks="$ranks" '$1 == ranks { print $2, $3, $3 / $2 }' "$work/pairs" >"$work/one"
    printf '| %d x %d | %.2f | %.2f | %.3f (%.3f to %.3f) |\n' "$ranks" $((3 - ranks)) \
        "$(quantile 1 0.5 <"$work/one")" "$(quantile 2 0.5 <"$work/one")" \
        "$(quantile 3 0.5 <"$work/one")" "$(quantile 3 0.25 <"$work/one")" \
        "$(quantile 3 0.75 <"$work/one")"
done
