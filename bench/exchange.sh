#!/bin/bash
# exchange.sh: what a step takes with the tree, with MPI_Iallreduce, and on one rank with the same
# cores, in turns. The default network; MNIST where it can be found, else the built-in digits.
#
#   bench/exchange.sh [REPEATS [STEPS]]     9 and 100 unless given
#
# Uses build/release. Prints medians, and the median of the ratios of neighbouring runs.
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
repeats=${1:-9} steps=${2:-100}
build release dtrain --buildtype=release || die 1 "the build failed (log: build/release.log)"
mpi_environment
find_data

ms() # RANKS OPTION...
{
    mpirun --bind-to none -n "$1" "$root/build/release/dtrain" --steps "$steps" \
        --eval-every 100000 --validation-size 0 --checkpoint-dir none "${@:2}" |
        sed -n 's/^Trained .* \([0-9.]*\) ms\/step$/\1/p'
}

for ((i = 0; i < repeats; i++)); do
    echo "$(ms 2 --threads 1) $(ms 2 --threads 1 --reduce allreduce) $(ms 1 --threads 2)" \
        "$(ms 2 --threads 1 --window-ranks 1) $(ms 1 --threads 1)"
done | awk '
    function median(values, count,  i, j, t) {
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && values[j - 1] > values[j]; j--) {
                t = values[j]; values[j] = values[j - 1]; values[j - 1] = t
            }
        return values[int((count + 1) / 2)]
    }
    { for (k = 1; k <= NF; k++) { ms[k, NR] = $k; ratio[k, NR] = $k / $1 } }
    END {
        split("2 ranks x 1 thread, tree|2 ranks x 1 thread, --reduce allreduce|" \
            "1 rank x 2 threads|2 ranks x 1 thread, tree by messages|1 rank x 1 thread", names, "|")
        print "| | ms/step | of the tree'"'"'s |\n| --- | --- | --- |"
        for (k = 1; k <= 5; k++) {
            for (i = 1; i <= NR; i++) { a[i] = ms[k, i]; b[i] = ratio[k, i] }
            printf "| %s | %.1f | %.2f |\n", names[k], median(a, NR), median(b, NR)
        }
    }'
