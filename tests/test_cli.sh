#!/bin/sh
# test_cli.sh DTRAIN: the commands and what they print, on a small job.
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

has()
{
    grep -qE -- "$1" "$out"
}
value() # NAME: what stands behind "NAME: "
{
    sed -n "s/^$1: //p" "$out"
}

# Without MPI: help, version, info.
: >"$err"
last='' status=0
"$dtrain" --help >"$out"
check 'help names the options' has '--batch-size N'
check 'help fits a terminal' [ "$(awk 'length > 100' "$out" | wc -l)" -eq 0 ]
"$dtrain" --version >"$out"
check 'version' has '^dtrain [0-9]+\.[0-9]+\.[0-9]+'
"$dtrain" info mnist-cnn >"$out"
check 'info knows the built-in model' has '1663370'
"$dtrain" info synthetic:50 >"$out"
check 'info counts data' has '^Training: 50'
"$dtrain" info /nowhere >"$out" 2>"$err" || status=$?
check 'info of nothing is 65' [ "$status" -eq 65 ]

status=0
"$dtrain" info --devices >"$out" || status=$?
check 'info --devices ends well' [ "$status" -eq 0 ]
check 'info --devices tells of the CPU' has '^CPU: [0-9]+ cores, '
check 'info --devices tells of GPUs' has '^(GPU: .+|Device 0: .+)$'

cat >"$work/net" <<'NET'
input 28 28 1
conv 4 3x3 relu stride 2
maxpool 2
dense 16 relu
dropout 0.5
dense 10
NET

# The tutorial's lines, the end, and the checkpoint.
set -- --data synthetic:1003 --model net --validation-size 100 --steps 21 --eval-every 10 \
    --checkpoint-every 8 --seed 7
job 2 "$@" --checkpoint-dir ckpt --keep 2 --threads 2
check 'trains' [ "$status" -eq 0 ]
check 'report' has '^Step 10 \(epoch 0\.67\), [0-9]+\.[0-9] ms$'
check 'loss and rate' has '^Minibatch loss: [0-9]+\.[0-9]{3}, learning rate: 0\.010000$'
check 'minibatch error' has '^Minibatch error: [0-9]+\.[0-9]%$'
check 'validation error' has '^Validation error: [0-9]+\.[0-9]%$'
check 'reports at 0, 10, 20' [ "$(grep -c '^Step ' "$out")" -eq 3 ]
check 'test error' has '^Test error: [0-9]+\.[0-9]%$'
check 'weights' has '^Weights: [0-9a-f]{16}$'
check 'throughput' has '^Trained 21 steps in [0-9.]+ s: [0-9]+ images/s, [0-9.]+ ms/step$'
check 'nothing to complain about' [ "$(grep -c dtrain "$err")" -eq 0 ]
check 'latest names the newest' [ "$(cat "$work/ckpt/latest")" = ckpt-s000000021.h5 ]
check 'keeps two' [ "$(ls "$work/ckpt")" = "$(printf '%s\n' ckpt-s000000016.h5 ckpt-s000000021.h5 latest)" ]
weights=$(value Weights)
test_error=$(value 'Test error')

# The same again, with other threads and buckets: the same bits.
job 2 "$@" --checkpoint-dir none --threads 1 --bucket-bytes 1000 --overlap no
check 'same weights with other threads and buckets' [ "$(value Weights)" = "$weights" ]
job 2 "$@" --checkpoint-dir none --seed 1
check 'other weights with another seed' [ "$(value Weights)" != "$weights" ]

# The checkpoint gives the same test error on any number of ranks.
# Its data is that of the run; --data may name other.
for ranks in 1 ${several:+3}; do
    DTRAIN_DATA=/nowhere job "$ranks" eval ckpt
    check 'eval ends well' [ "$status" -eq 0 ]
    check 'eval names the data' has '^Data: synthetic digits: [0-9]+ test images$'
    check 'eval finds the test error' [ "$(value 'Test error')" = "$test_error" ]
    check 'eval finds the weights' [ "$(value Weights)" = "$weights" ]
done
count=$(sed -n 's/^Data: .*: //p' "$out")
job 1 eval ckpt --data synthetic:2000
check 'eval takes other data' has '^Data: synthetic digits: '
check 'eval takes as much as that has' [ "$(sed -n 's/^Data: .*: //p' "$out")" != "$count" ]
# How it is computed is not the run's business.
job 1 --data synthetic:200 --model net --validation-size 20 --steps 2 --kernels reference \
    --checkpoint-dir reference
job 1 eval reference --kernels onednn
check 'eval takes other kernels' [ "$status" -eq 0 ]
status=0
"$dtrain" info "$work/ckpt" >"$out"
check 'info shows the step' has '21'
check 'info shows the weights hash' has "$weights"

# A folder with another run's checkpoints is left alone.
job 1 "$@" --checkpoint-dir ckpt
check 'a used folder is refused' [ "$status" -eq 2 ]

# A default folder that cannot be made is a warning.
: >"$work/runs"
job 1 --data synthetic:200 --model net --validation-size 20 --steps 2
check 'trains without a folder' [ "$status" -eq 0 ]
check 'warns' grep -q 'warning: training without checkpoints' "$err"
rm "$work/runs"

# The default folder is made, named after the job.
SLURM_JOB_ID=4711 job 1 --data synthetic:200 --model net --validation-size 20 --steps 2
check 'default folder' [ -s "$work/runs/4711/ckpt-s000000002.h5" ]

# Who names no data is told why it is the built-in digits.
(unset DTRAIN_DATA && job 1 --model net --dry-run && cp "$out" "$out.unnamed")
mv "$out.unnamed" "$out"
check 'tells that nobody named data' \
    has '^Data: synthetic digits \(no --data, no DTRAIN_DATA, no \./data/mnist\): 55000 training'

# A dry run trains and writes nothing.
rm -rf "$work/runs"
job 2 --data synthetic:200 --model net --validation-size 20 --dry-run
check 'dry run ends well' [ "$status" -eq 0 ]
check 'dry run prints the plan' has '^Batch: 64 = 8 shards x 8'
check 'dry run trains nothing' [ "$(grep -c '^Step ' "$out")" -eq 0 ]
check 'dry run writes nothing' [ ! -e "$work/runs" ]

if [ -n "$several" ]; then
    # Shards for more ranks than eight: the smallest divisor of the batch that is enough.
    job 9 --data synthetic:300 --model net --validation-size 0 --batch-size 60 --dry-run
    check '9 ranks: 10 shards' has '^Batch: 60 = 10 shards x 6'
    job 3 --data synthetic:300 --model net --validation-size 0 --batch-per-rank 5 --dry-run
    check 'batch per rank' has '^Batch: 15 = 3 shards x 5'
fi

# The progress bar, on request.
job 1 --data synthetic:200 --model net --validation-size 20 --steps 2 --progress yes \
    --checkpoint-dir none
cat "$err" >>"$out" # where Open MPI 5 puts it all
check 'progress bar' has 'step 1 of 2'

# Alone it is one process: no daemon of the MPI library stands beside it.
last='alone' status=0
(cd "$work" && exec "$dtrain" --data synthetic:200 --model net --validation-size 20 --steps 1000000 \
    --checkpoint-dir none) >"$out" 2>"$err" &
alone=$!
check 'starts alone' wait_for '^Ready after '
check 'has no children' [ -z "$(grep -lsE "^PPid:[[:space:]]+$alone\$" /proc/[0-9]*/status)" ]
kill -s KILL "$alone"
wait "$alone" || status=$?

# The plan tells where ranks are, and of threads that have no core.
last='--threads 99'
(cd "$work" && taskset -c 0 "$dtrain" --data synthetic:200 --model net --validation-size 20 \
    --threads 99 --dry-run) >"$out" 2>"$err"
check 'tells of too many threads' has '^Note: 99 threads share 1 core of [^ ]+ \(0\); '
if [ -n "$several" ]; then
    last='' status=0
    (cd "$work" && "$mpirun" --bind-to none -n 3 "$dtrain" --data synthetic:200 --model net \
        --validation-size 20 --dry-run) >"$out" 2>"$err" || status=$?
    check 'lists the ranks' \
        [ "$(grep -cE '^    rank [0-2] +[^ ]+ +1 thread on cores [0-9,-]+$' "$out")" -eq 3 ]
fi

finish
