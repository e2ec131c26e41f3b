#!/bin/bash
# several_hosts.sh: how much of the exchange hides under computing, on several emulated hosts. Needs root.
#
#   bench/several_hosts.sh [RATE [HOSTS [REPEATS]]]     200mbit, 4 and 5 unless given; RATE none: no limit
#
# Takes turns at: computing alone (as many trainings at once as there are hosts, each of one rank
# with a host's part of the batch and nothing to exchange), the exchange alone (bench_allreduce),
# and training steps with both. Prints medians, and as hidden
#
#     (computing + exchange - step) / computing
#
# Then the exchange against MPI's collectives. Uses build/release; the data are synthetic.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
rate=${1:-200mbit} hosts=${2:-4} repeats=${3:-5} steps=20
case $rate in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
esac
build release all --buildtype=release || die 1 "the build failed (log: build/release.log)"
lab=$root/tests/cluster/hosts.sh
bench=$root/build/release/bench/bench_allreduce
train=("$root/build/release/dtrain" --data synthetic:5000 --validation-size 0 --threads 1
    --steps "$steps" --eval-every 100000 --checkpoint-dir none)
parameter_bytes=6653480 # of the default network
results=$(mktemp -d)
bash "$lab" up "$hosts" "$rate" 256kb
trap 'bash "$lab" down; rm -rf "$results"' EXIT

step_ms()
{
    sed -n 's/^Trained .* \([0-9.]*\) ms\/step$/\1/p'
}
# The slowest of trainings that run at the same time.
measure_computing()
{
    local host
    for ((host = 0; host < hosts; host++)); do
        bash "$lab" run "h$host" "${train[@]}" --batch-size $((64 / hosts)) --shards 2 &
    done | step_ms | sort -n | tail -n 1
}
measure_exchange()
{
    bash "$lab" mpirun 1 "$bench" --least $parameter_bytes --most $parameter_bytes --repeats 5 \
        --bucket-bytes 262144 | awk -F ' *[|] *' '$3 == "tree, messages" { print $4 }'
}
measure_step()
{
    bash "$lab" mpirun 1 "${train[@]}" "$@" | step_ms
}
median()
{
    sort -n "$results/$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for ((i = 0; i < repeats; i++)); do
    measure_computing >>"$results/computing"
    measure_exchange >>"$results/exchange"
    measure_step >>"$results/tree"
    measure_step --overlap no >>"$results/no-overlap"
    measure_step --reduce allreduce --bucket-bytes 1048576 >>"$results/allreduce"
done

computing=$(median computing) exchange=$(median exchange)
echo "$hosts hosts with one rank each, links of $rate, medians of $repeats; ms:"
echo
echo "| | ms | hidden |"
echo "| --- | --- | --- |"
echo "| computing alone | $computing | |"
echo "| exchange alone | $exchange | |"
for name in tree no-overlap allreduce; do
    echo "$name $(median $name) $computing $exchange" |
        awk '{ printf "| step, %s | %s | %.0f %% |\n", $1, $2, 100 * ($3 + $4 - $2) / $3 }'
done
echo
bash "$lab" mpirun 1 "$bench" --least 262144 --most 4194304 --repeats 3
echo
# Two hosts: the computing of more would not fit on two cores.
bash "$lab" mpirun 1 -n 2 "$bench" overlap --repeats 5 --bucket-bytes 262144
