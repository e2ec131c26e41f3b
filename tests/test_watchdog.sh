#!/bin/sh
# test_watchdog.sh DTRAIN HANG [full]: a job that hangs ends with status 124 and the name of the rank
# that is to blame; one that is slow, or was stopped for a while, goes on. HANG is dtrain with
# hang.c. With `full`, every rank hangs in every phase.
set -eu
dtrain=$1
hang=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
full=${3:-}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

printf 'input 28 28 1\nconv 6 5x5 relu\nmaxpool 2\ndense 40 relu\ndense 10\n' >"$work/net"
train="--data synthetic:1000 --validation-size 200 --model net --threads 1 --eval-every 20"
program=$dtrain

# The function of hang.c and the place that the watchdog names, for each phase.
phases='dtr_synthetic_digit:100 data
dtr_loader_step:9 step 7, data
network_forward:9 step 7, forward pass
network_backward:9 step 8, backward pass
dtr_tree_chunk_begin:9 bucket [0-9]* of the exchange
dtr_sgd_update_shared:9 optimizer
network_infer:2 evaluation
store_file:9 checkpoint'

hangs() # RANKS RANK FUNCTION:N PLACE OPTION...
{
    ranks=$1 rank=$2 place=$4
    export DTRAIN_TEST_HANG="$rank:$3"
    shift 4
    dtrain=$hang
    # shellcheck disable=SC2086 # a list
    job "$ranks" $train --steps 1000 --checkpoint-every 3 --watchdog 2 "$@"
    dtrain=$program
    last="$DTRAIN_TEST_HANG: $last"
    check 'exit status 124' [ "$status" -eq 124 ]
    check "rank $rank in $place" grep -q \
        "^dtrain: rank $rank on .* has got nothing done for [23] s: .*$place" "$err"
    check 'nobody else' [ "$(grep -c '^dtrain: rank' "$err")" -eq 1 ]
    check 'what to do' grep -q '^dtrain: the job hangs.*--watchdog 2' "$err"
}

# Rank 0 writes the checkpoints; the others take turns.
rank=0
echo "$phases" >"$work/phases"
while read -r function place; do
    case $function in
    store_file*) ranks=0 ;;
    *) ranks=${full:+0 1 2} ;;
    esac
    for victim in ${ranks:-$rank}; do
        rm -rf "$work/run"
        hangs 3 "$victim" "$function" "$place" --checkpoint-dir run --overlap yes
    done
    rank=$(((rank + 1) % 3))
done <"$work/phases"

# A training in the background, which has begun.
# shellcheck disable=SC2086 # a list
train() # RANKS OPTION...
{
    ranks=$1
    shift
    start "$ranks" $train --checkpoint-dir none "$@"
    check 'trains' wait_for '^Step 20 '
}

# A rank whose process stands still is named by the others; if it is rank 0, who judges, 6 s later.
for victim in 1 0; do
    seconds='[2-4]'
    [ "$victim" -ne 0 ] || seconds='[89]'
    train 3 --steps 100000 --watchdog 2
    send STOP "$victim"
    status=0
    wait "$job" || status=$?
    check 'exit status 124' [ "$status" -eq 124 ]
    check "rank $victim has not answered" grep -q \
        "^dtrain: rank $victim on .* has not answered for $seconds s: it is stopped" "$err"
    check 'nobody else' [ "$(grep -c '^dtrain: rank' "$err")" -eq 1 ]
done

# One that does not even start: MPI has ten times the limit for that.
# shellcheck disable=SC2016 # for that script
printf '#!/bin/sh\n[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$PMIX_RANK}}" != 1 ] || exec sleep 100\nexec "%s" "$@"\n' \
    "$program" >"$work/absent"
chmod +x "$work/absent"
dtrain=$work/absent
job 2 --watchdog 1
dtrain=$program
check 'exit status 124' [ "$status" -eq 124 ]
check 'says so' grep -q '^dtrain: rank 0 on .* has waited 10 s for the start of MPI' "$err"

# All stopped for longer than the limit, as by a job's suspension, or one for less: no alarm.
train 2 --steps 100000 --watchdog 3
send STOP 0 1
sleep 5
send CONT 0 1
sleep 1
send STOP 1
sleep 1
send CONT 1
sleep 1
check 'goes on' kill -0 "$job"
send TERM 0
status=0
wait "$job" || status=$?
check 'and ends as asked' [ "$status" -eq 143 ]

# Slow, but moving: an evaluation that takes longer than the limit.
export DTRAIN_TEST_HANG=1:network_infer:slow
dtrain=$hang
# shellcheck disable=SC2086 # a list
job 2 --data synthetic:3000 --validation-size 900 --model net --threads 1 --steps 1 --eval-every 1 \
    --checkpoint-dir none --watchdog 2
check 'exit status 0' [ "$status" -eq 0 ]
check 'nothing to say' [ -z "$(grep -v ' 2> ' "$err" | grep '^dtrain')" ]
finish
