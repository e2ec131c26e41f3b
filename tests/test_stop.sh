#!/bin/sh
# test_stop.sh DTRAIN: a training that is stopped by a signal or by its time limit leaves a checkpoint
# from which it goes on to the same weights, and says by its status that it was stopped.
# shellcheck disable=SC2086 # $common is a list
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

cat >"$work/net" <<'EOT'
input 28 28 1
conv 6 5x5 relu
maxpool 2
dense 40 relu
dense 10
EOT
common="--data synthetic:1000 --validation-size 100 --model net --threads 1 --eval-every 20"

weights()
{
    sed -n 's/^Weights: //p' "$out"
}

ends_within() # SECONDS: sets $status
{
    began=$(date +%s)
    status=0
    wait "$job" || status=$?
    check "ends within $1 s" [ $(($(date +%s) - began)) -le "$1" ]
}

job 1 $common --steps 300 --checkpoint-dir none
expected=$(weights)
check 'has weights' [ -n "$expected" ]

# stopped RANKS SIGNAL RANK...: the signal to these ranks; then the rest on another number of ranks.
stopped()
{
    ranks=$1 signal=$2
    shift 2
    rm -rf "$work/run"
    start "$ranks" $common --steps 100000 --checkpoint-dir run
    check 'trains' wait_for '^Step 40 '
    for rank in "$@"; do
        send "$signal" "$rank"
    done
    ends_within 10
    check 'exit status 75' [ "$status" -eq 75 ]
    check 'says by what' grep -q "^Stopped by SIG$signal after [0-9]* of 100000 steps" "$out"
    newest=$(cat "$work/run/latest")
    check 'says where' grep -qx "Resume from: run/$newest" "$out"
    steps=$(sed -n 's/^Stopped by [A-Z0-9]* after \([0-9]*\) of .*/\1/p' "$out")
    stopped_with=$(weights)
    job 1 $common --steps "$steps" --checkpoint-dir none
    check 'loses nothing' [ "$(weights)" = "$stopped_with" ]
}

stopped 1 TERM 0
stopped 2 TERM 1
stopped 3 USR1 0
stopped 2 USR2 0 1
stopped 2 INT 0 1

# Stop and go until the end.
rm -rf "$work/run"
for rank in 1 0 1; do
    start 2 $common --steps 300 --checkpoint-dir run --resume auto
    check 'trains' wait_for '^Step '
    send USR1 "$rank"
    wait "$job" || check 'exit status 75' [ $? -eq 75 ]
done
job 3 --resume auto --checkpoint-dir run
check 'ends' [ "$status" -eq 0 ]
check "as $expected" [ "$(weights)" = "$expected" ]

# Nothing to go on from: the status is the signal's.
start 2 $common --steps 100000 --checkpoint-dir none
check 'trains' wait_for '^Step 20 '
send TERM 0
ends_within 10
check 'exit status 143' [ "$status" -eq 143 ]
check 'no word of a checkpoint' [ -z "$(grep '^Resume from' "$out")" ]

# An evaluation that would take a minute is given up.
printf 'input 28 28 1\nconv 16 5x5 relu\nmaxpool 2\nconv 16 5x5 relu\nmaxpool 2\ndense 10\n' \
    >"$work/slow"
start 2 $common --data synthetic:60000 --validation-size 58000 --model slow --kernels reference --steps 100 \
    --checkpoint-dir evaluation
check 'begins' wait_for '^Ready after'
sleep 2
send TERM 1
ends_within 10
check 'exit status 75' [ "$status" -eq 75 ]
check 'with a checkpoint' [ -f "$work/evaluation/ckpt-s000000001.h5" ]
check 'no half of a report' [ -z "$(grep '^Validation error' "$out")" ]

# A second SIGINT is meant. The first one has no effect here: a rank that stands still keeps the step
# from ending.
start 2 $common --steps 100000 --checkpoint-dir twice
check 'trains' wait_for '^Step 20 '
send STOP 1
sleep 1
send INT 0
sleep 1
check 'the first one waits for the step' kill -0 "$job"
send INT 0 || true
ends_within 10
check 'exit status 130' [ "$status" -eq 130 ]
check 'at once' [ ! -e "$work/twice/latest" ]

# The time limit.
job 2 $common --steps 10000000 --checkpoint-dir timed --time-limit 4
check 'exit status 75' [ "$status" -eq 75 ]
check 'says why' grep -q '^Stopped by the time limit after ' "$out"
check 'said so before' grep -q '^Time: [34] s are left (--time-limit)' "$out"
check 'has left a checkpoint' [ -f "$work/timed/$(cat "$work/timed/latest")" ]
job 2 $common --steps 10000000 --checkpoint-dir other --time-limit 3 --preempt-exit-code 99
check 'exit status 99' [ "$status" -eq 99 ]

# Slurm's, by either of its ways.
export SLURM_JOB_ID=77 SLURM_JOB_END_TIME=$(($(date +%s) + 4))
job 1 $common --steps 10000000
check 'exit status 75' [ "$status" -eq 75 ]
check 'knows the limit' grep -q '^Time: [345] s are left (Slurm)' "$out"
check 'writes into the folder of the job' [ -f "$work/runs/77/latest" ]
unset SLURM_JOB_END_TIME
mkdir "$work/bin"
# shellcheck disable=SC2016 # for the script itself
printf '#!/bin/sh\n[ "$*" = "-h -j 77 -o %%L" ] && echo 0:05\n' >"$work/bin/squeue"
chmod +x "$work/bin/squeue"
path=$PATH
PATH=$work/bin:$PATH
job 2 --resume auto --steps 10000000
check 'exit status 75' [ "$status" -eq 75 ]
check 'has asked' grep -q '^Time: 5 s are left (Slurm)' "$out"
check 'goes on in the folder of the job' grep -q '^Resumed: runs/77/ckpt-' "$out"
PATH=$path
unset SLURM_JOB_ID

# Two runs in one folder.
start 1 $common --steps 100000 --checkpoint-dir shared
check 'trains' wait_for '^Step 20 '
first_out=$out first_err=$err
out=$work/out2 err=$work/err2
job 1 $common --steps 10 --checkpoint-dir shared --resume auto
expect_failure 2 'shared is in use by another run (host '
out=$first_out err=$first_err
send KILL 0
wait "$job" || true
printf junk >"$work/shared/.ckpt-s000000007.h5.tmp-host-1"
job 1 $common --steps 10 --checkpoint-dir shared --resume auto
check 'a dead run has no folder' [ "$status" -eq 0 ]
check 'what it left is gone' [ ! -e "$work/shared/.ckpt-s000000007.h5.tmp-host-1" ]
check 'and so is the lock' [ ! -e "$work/shared/.lock" ]

# A training that diverges ends, and leaves its last good checkpoint.
job 2 $common --steps 300 --lr 1000 --checkpoint-dir nan --checkpoint-every 1
expect_failure 1 'the training has diverged; try a smaller --lr'
check 'no checkpoint of such weights' sh -c "'$dtrain' info '$work/nan' | grep -q OK"
# Weights become infinite, and only the next loss tells: the decay multiplies them by -1e12 a step.
printf 'input 28 28 1\ndense 10\n' >"$work/flat"
job 2 $common --model flat --steps 300 --lr 1000000 --weight-decay 1000000 --checkpoint-dir infinite \
    --checkpoint-every 1 --on-checkpoint-failure stop --on-nan skip
check 'exit status 1' [ "$status" -eq 1 ]
check 'says which one' grep -q 'warning: no checkpoint at step 4: weights are no numbers' "$err"
check 'the last good one' grep -q 'diverged.* (last good checkpoint: infinite/ckpt-s000000003.h5)' "$err"
check 'stays the newest' grep -qx ckpt-s000000003.h5 "$work/infinite/latest"
job 2 $common --steps 300 --lr 1000 --checkpoint-dir none --on-nan skip
check 'exit status 1' [ "$status" -eq 1 ]
check 'not for ever' grep -q 'the training has diverged' "$err"
check 'says what it skips' grep -q 'warning: the loss of step [0-9]* is .*: no update by this batch' "$err"

finish
