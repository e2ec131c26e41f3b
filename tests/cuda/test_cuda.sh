#!/bin/sh
# test_cuda.sh DTRAIN PLUGIN [short]: the whole program on the CUDA backend, in a plugin in which the
# CPU stands for a GPU; it has to report what the CPU backend reports. short: on one and two ranks.
set -eu
dtrain=$1
short=${3:-}
plugin=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

cat >"$work/net" <<'NET'
input 28 28 1
conv 4 5x5 relu
maxpool 2
conv 6 3x3 relu stride 2
dense 24 relu
dropout 0.5
dense 10
NET

has()
{
    grep -qE -- "$1" "$out"
}
reports()
{
    grep -E '^(Minibatch|Validation|Test)' "$out"
}

check 'the program itself needs no CUDA' [ -z "$(ldd "$dtrain" | grep -iE 'cuda|nccl|cublas')" ]

# Without a GPU.
set -- --data synthetic:200 --model net --validation-size 20 --batch-size 8 --steps 30 --eval-every 10 \
    --checkpoint-dir none --watchdog 0
DTRAIN_PLUGIN=$work/nowhere.so job 2 "$@" --backend cuda
expect_failure 69 'the GPU plugin cannot be loaded'
DTRAIN_PLUGIN=$work/nowhere.so job 1 "$@" --steps 1
check 'auto takes the CPU' [ "$status" -eq 0 ]
check 'and says why' has '^GPUs: none, the CPU computes: the GPU plugin cannot be loaded'
job 1 "$@" --backend cpu --precision tf32
expect_failure 2 '--precision tf32 is for GPUs'

job 1 "$@" --backend cpu
reports >"$work/cpu"
check 'the CPU trains' [ "$status" -eq 0 ]

export DTRAIN_PLUGIN="$plugin" DTRAIN_FAKE_STRICT=1
status=0
"$dtrain" info --devices >"$out" || status=$?
check 'info lists the device' has '^Device 0: .*, [0-9.]+ GiB, compute capability 9.0'
check 'and says what auto chooses' has '^--backend auto: GPUs, tf32, on up to 1 rank of this host'

job 1 "$@" --precision fp32
check 'the GPU trains' [ "$status" -eq 0 ]
check 'on the GPU' has 'backend cuda, fp32'
reports >"$work/cuda"
check 'as the CPU does' diff "$work/cpu" "$work/cuda"

weights()
{
    grep '^Weights' "$out"
}
job 1 "$@" --precision fp32 --comm mpi
reports >"$work/cuda"
check 'the exchange trains as the CPU does' diff "$work/cpu" "$work/cuda"
weights >"$work/one"
job 1 "$@" --precision fp32 --comm nccl
check 'NCCL with one rank' [ "$status" -eq 0 ]
check 'gives the weights of the exchange' [ "$(weights)" = "$(cat "$work/one")" ]
[ -n "$several" ] || finish

# Several ranks with a device each. The fake NCCL adds two ranks' gradients as the tree does.
export DTRAIN_FAKE_DEVICES=4
for ranks in 2 4; do
    job "$ranks" "$@" --precision fp32 --comm mpi
    weights >"$work/several"
    DTRAIN_FAKE_SEED=$ranks job "$ranks" "$@" --precision fp32 --watchdog 60
    check "$ranks ranks train by NCCL" has '^Exchange: NCCL'
    reports >"$work/cuda"
    check "$ranks ranks report what the CPU does" diff "$work/cpu" "$work/cuda"
    check "$ranks ranks give the weights of the exchange" [ "$(weights)" = "$(cat "$work/several")" ]
    [ -z "$short" ] || finish
done

# As Slurm's --gpus-per-task has it: a GPU each, which is device 0 to all.
cat >"$work/own" <<SCRIPT
#!/bin/sh
export CUDA_VISIBLE_DEVICES=\${OMPI_COMM_WORLD_RANK:-\$PMIX_RANK}
exec "$dtrain" "\$@"
SCRIPT
chmod +x "$work/own"
program=$dtrain
dtrain=$work/own
job 2 "$@" --precision fp32 --dry-run
dtrain=$program
check 'ranks see a GPU each' has '^GPU of rank 1: .*, device 0 of 1 on'
check 'which is worth a note' has '^Note: each rank sees one GPU alone'

# Where a run ends early, what was given to the device is waited for.
job 2 "$@" --precision fp32 --checkpoint-dir all --checkpoint-every 7
weights >"$work/several"
job 2 "$@" --precision fp32 --checkpoint-dir part --steps 17
job 2 --resume part --steps 30 --data synthetic:200 --watchdog 0
check 'a run goes on' has '^Resumed: part/ckpt-s000000017'
check 'to the same weights' [ "$(weights)" = "$(cat "$work/several")" ]
# By a signal, too: rank 1's, after some steps.
cat >"$work/signal_rank_1" <<SCRIPT
#!/bin/sh
if [ "\${OMPI_COMM_WORLD_RANK:-\$PMIX_RANK}" -eq 1 ]; then
    { sleep 1; while kill -USR1 \$\$; do sleep 1; done; } 2>/dev/null >/dev/null &
fi
exec "$dtrain" "\$@"
SCRIPT
chmod +x "$work/signal_rank_1"
dtrain=$work/signal_rank_1
job 2 "$@" --precision fp32 --checkpoint-dir stopped --steps 10000 --eval-every 5000
dtrain=$program
check 'a signal ends it with a checkpoint' [ "$status" -eq 75 ]
stopped=$(sed -n 's/^Stopped by SIGUSR1 after \([0-9]*\) of .*/\1/p' "$out")
weights >"$work/several"
check 'in the middle' [ "${stopped:-0}" -gt 0 ]
job 2 "$@" --precision fp32 --comm mpi --steps "${stopped:-1}" --eval-every 5000
check 'which holds the steps that it says' [ "$(weights)" = "$(cat "$work/several")" ]
job 2 "$@" --precision fp32 --lr 1e6
expect_failure 1 'the training has diverged'
job 2 "$@" --precision fp32 --lr 1e6 --on-nan skip --steps 3
check 'a batch can be skipped' [ "$status" -eq 0 ]

job 2 "$@" --comm nccl --reduce tree
expect_failure 69 '--comm nccl cannot be had: --reduce tree is for MPI'
job 2 "$@" --comm nccl --backend cpu
expect_failure 69 '--comm nccl cannot be had: the CPU computes here'
export DTRAIN_FAKE_DEVICES=1
job 2 "$@" --comm nccl --allow-gpu-sharing
expect_failure 69 '--comm nccl cannot be had: ranks share GPUs'
job 2 "$@" --backend cuda
expect_failure 69 'it would share device 0'
job 2 "$@" --steps 1
check 'auto takes the CPU then' has '^GPUs: none, the CPU computes: ranks would share GPUs'
job 2 "$@" --precision fp32 --allow-gpu-sharing --checkpoint-dir ckpt
check 'two ranks train' [ "$status" -eq 0 ]
reports >"$work/cuda"
check 'two ranks train as the CPU does' diff "$work/cpu" "$work/cuda"
test_error=$(grep '^Test error' "$out")
job 1 eval ckpt --data synthetic:200 --watchdog 0
check 'the GPU evaluates' [ "$(grep '^Test error' "$out")" = "$test_error" ]
job 3 "$@" --precision fp32 --allow-gpu-sharing --steps 2
check 'ranks that do not divide the shards' [ "$status" -eq 0 ]

finish
