#!/bin/sh
# test_resume.sh DTRAIN [full]: a training that goes on from a checkpoint ends with the weights of
# one that never stopped, whatever the number of ranks before and after, in the middle of an epoch
# and at its end. `full` tries all pairs of 1, 2, 3, 4, 6 and 8 ranks.
set -eu
dtrain=$1
full=${2:-}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

cat >"$work/net" <<'EOT'
input 28 28 1
conv 6 5x5 relu
maxpool 2
dense 400 relu
dropout 0.5
dense 10
EOT
# 13 steps an epoch, slices that are not full, layers whose factors ranks share.
common="--data synthetic:1000 --validation-size 197 --batch-size 64 --model net --threads 1 \
    --eval-every 10 --steps 33"

weights()
{
    sed -n 's/^Weights: //p' "$out"
}

# shellcheck disable=SC2086 # $common is a list
uninterrupted()
{
    job 1 $common --checkpoint-dir whole
    check 'trains' [ "$status" -eq 0 ]
    weights
}
expected=$(uninterrupted)
check 'has weights' [ -n "$expected" ]

# What a run that is ended at a step leaves behind, and how it goes on.
# shellcheck disable=SC2086
stop_and_go() # RANKS STEP RANKS
{
    rm -rf "$work/run"
    job "$1" $common --steps "$2" --checkpoint-dir run --checkpoint-every 7
    check 'stops' [ "$status" -eq 0 ]
    job "$3" --resume auto --checkpoint-dir run --steps 33 --threads 1 --eval-every 10
    check 'goes on' [ "$status" -eq 0 ]
    check 'says from where' grep -qF "Resumed: run/ckpt-s$(printf %09d "$2").h5, step $2 " "$out"
    check "ends as $expected" [ "$(weights)" = "$expected" ]
    check 'has the steps that were left' grep -q "^Trained $((33 - $2)) steps" "$out"
    check 'reports at the same steps' grep -q '^Step 30 ' "$out"
}

if [ "$full" = full ]; then
    for before in 1 2 3 4 6 8; do
        for after in 1 2 3 4 6 8; do
            stop_and_go "$before" 17 "$after"
            stop_and_go "$before" 26 "$after"
        done
    done
else
    stop_and_go 1 17 2
    stop_and_go 3 26 1
    stop_and_go 2 5 8
    stop_and_go 4 13 3
fi

# The last checkpoint is as if the run had never stopped.
check 'the same tensors' cmp -s "$work/whole/latest" "$work/run/latest"
job 1 info run
grep -v '^Checkpoint: \|^  data ' "$out" >"$work/resumed"
job 1 info whole
grep -v '^Checkpoint: \|^  data ' "$out" >"$work/whole.info"
check 'the same file but for names' cmp "$work/whole.info" "$work/resumed"

# A finished run has nothing left to do; with more steps it goes on.
job 2 --resume auto --checkpoint-dir run
check 'is done' [ "$status" -eq 0 ]
check 'says so' grep -q '^Trained 0 steps: ' "$out"
check 'has its weights' [ "$(weights)" = "$expected" ]
# shellcheck disable=SC2086
job 1 $common --steps 40 --checkpoint-dir none
longer=$(weights)
job 2 --resume run/ckpt-s000000033.h5 --steps 40
check 'goes on in its folder' [ -f "$work/run/ckpt-s000000040.h5" ]
check "ends as $longer" [ "$(weights)" = "$longer" ]

# A damaged checkpoint is skipped, an older one serves.
printf 'x' | dd of="$work/run/ckpt-s000000040.h5" bs=1 seek=20000 conv=notrunc 2>"$err"
job 2 --resume auto --checkpoint-dir run --steps 40
check 'goes on' [ "$status" -eq 0 ]
check 'names the damaged one' grep -q 'warning: skipped run/ckpt-s000000040.h5: .* damaged' "$err"
check 'takes the one before' grep -q '^Resumed: run/ckpt-s000000033.h5' "$out"
check "ends as $longer" [ "$(weights)" = "$longer" ]

# A fresh start where there is nothing yet.
# shellcheck disable=SC2086
job 2 $common --resume auto --checkpoint-dir none-yet
check 'begins' [ "$status" -eq 0 ]
check 'says so' grep -q '^Resumed: nothing, none-yet has no checkpoint' "$out"
check "ends as $expected" [ "$(weights)" = "$expected" ]

# What must not happen.
job 2 --resume run --lr 0.5
expect_failure 2 '--lr 0.5 contradicts run/ckpt-s000000040.h5, whose run has 0.01'
job 2 --resume run --model mnist-cnn
expect_failure 2 '--model mnist-cnn contradicts run/ckpt-s000000040.h5'
job 2 --resume run --data synthetic:1001
expect_failure 65 'synthetic:1001 is not the data of run/ckpt-s000000040.h5'
job 2 --resume run/ckpt-s000000033.h5
expect_failure 2 'run holds newer checkpoints than run/ckpt-s000000033.h5'
job 2 --resume whole --checkpoint-dir run --steps 50
expect_failure 2 'run already holds checkpoints'
job 9 --resume run --steps 50
expect_failure 2 '9 ranks, but --shards 8'
job 2 --resume auto
expect_failure 2 'name it by --checkpoint-dir'
job 2 --resume nowhere
expect_failure 65 'cannot read checkpoint nowhere'
check 'nothing is lost' [ -f "$work/run/ckpt-s000000040.h5" ]

finish
