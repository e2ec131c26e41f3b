#!/bin/sh
# test_scaling.sh DTRAIN: what a step sends, as MPI counts it, is what bench/README.md says it is:
# messages grow with the logarithm of the ranks, bytes towards a limit. Skipped where MPI has no
# such counters (Open MPI's component "monitoring").
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

printf 'input 28 28 1\nconv 8 5x5 relu\nmaxpool 4\ndense 100 relu\ndense 10\n' >"$work/net"
bucket=16384 # bytes: several buckets

# train RANKS STEPS REDUCE: the counts of each rank go to $work/counts.STEPS.RANK.prof
train()
{
    export OMPI_MCA_pml_monitoring_enable=2 OMPI_MCA_pml_monitoring_enable_output=3
    export OMPI_MCA_pml_monitoring_filename="$work/counts.$2"
    job "$1" --data synthetic:1000 --validation-size 100 --model net --threads 1 --steps "$2" \
        --eval-every 1000 --checkpoint-dir none --reduce "$3" --window-ranks 1 \
        --bucket-bytes $bucket
    check "trains $2 steps" [ "$status" -eq 0 ]
}

# sent STEPS RANK: messages and bytes to all other ranks. Lines are "I from to N bytes M msgs ..."
sent()
{
    awk '$1 == "I" || $1 == "E" { bytes += $4; messages += $6 }
        END { print messages + 0, bytes + 0 }' "$work/counts.$1.$2.prof"
}

# per_step RANKS: the most that any rank sends in a step: messages and bytes
per_step()
{
    rank=0
    while [ $rank -lt "$1" ]; do
        echo "$(sent 15 $rank) $(sent 5 $rank)"
        rank=$((rank + 1))
    done | awk '{ m = ($1 - $3) / 10; b = ($2 - $4) / 10
            messages = m > messages ? m : messages; bytes = b > bytes ? b : bytes }
        END { print messages, bytes }'
}

# The formulas. n: bytes of the parameters; f: open nodes of a rank's run, at most.
within() # RANKS MESSAGES BYTES
{
    echo "$1 $2 $3 $parameters $bucket" | awk '{
        ranks = $1; n = 4 * $4; buckets = int((n + $5 - 1) / $5) + 1
        for (power = 1; 2 * power <= ranks; power *= 2)
            levels++
        exact = power == ranks
        f = exact ? 1 : 2
        most = n * ((f + 1) * (1 - 1 / power) + (exact ? 0 : 1))
        control = 2 * (levels + 1) # messages of a small all-reduce, 800 bytes each
        printf "%d ranks: %.1f messages, %.0f bytes a step; by the formulas %d, %.0f\n", ranks, $2,
            $3, buckets * (2 * levels + (exact ? 0 : 1)), most
        exit !($2 > 0 && $2 <= buckets * (2 * levels + (exact ? 0 : 1)) + control &&
            $3 <= 1.01 * most + 900 * control && (!exact || $3 >= 0.99 * most))
    }'
}

job 1 --data synthetic:1000 --validation-size 100 --model net --dry-run
parameters=$(sed -n 's/^Model: .*, \([0-9]*\) parameters.*/\1/p' "$out")
check 'knows the parameters' [ "${parameters:-0}" -gt 10000 ]

train 2 5 tree
[ -f "$work/counts.5.0.prof" ] || exit 77
for ranks in 2 3 4 5 6 7 8; do
    train "$ranks" 5 tree
    train "$ranks" 15 tree
    # shellcheck disable=SC2046 # two numbers
    check "$ranks ranks: as the formulas say" within "$ranks" $(per_step "$ranks")
    train "$ranks" 5 allreduce
    train "$ranks" 15 allreduce
    echo "  MPI_Iallreduce: $(per_step "$ranks") messages, bytes"
done
finish
