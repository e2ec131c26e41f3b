#!/bin/sh
# test_faults.sh DTRAIN PLUGIN: a training on the CUDA backend, in a plugin in which the CPU stands for
# a GPU, in which one call of CUDA, cuBLAS or NCCL fails: every function that is called at all, its
# first call and one in the middle. The job has to end with one line that names the call, or, where
# nothing is lost by it, to train as if nothing had been.
set -eu
dtrain=$1
plugin=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

cat >"$work/net" <<'NET'
input 28 28 1
conv 2 3x3 relu stride 2
maxpool 2
dense 6 relu
dropout 0.5
dense 10
NET
export DTRAIN_PLUGIN="$plugin" DTRAIN_FAKE_DEVICES=4
set -- --data synthetic:60 --model net --validation-size 20 --batch-size 8 --steps 6 --eval-every 3 \
    --checkpoint-dir none --backend cuda --precision fp32

# What a line says of a call that failed: its name, or what it was for.
names_call()
{
    case $1 in
    async) pattern='cuda[A-Za-z]*|[0-9.]+ MB of device memory for .*' ;;
    kernel) pattern='dtr_cuda_[a-z_]*' ;;
    cudaMalloc | cudaMallocHost | cudaMemsetAsync) pattern="[0-9.]+ MB of (device|pinned) memory for .*|$1" ;;
    cudaStreamSynchronize) pattern="[0-9.]+ MB of device memory for .*|$1" ;;
    cudaGetDevice* | cudaDevice*) pattern='no GPU can be used' ;;
    ncclCommGetAsyncError) pattern='NCCL|nccl[A-Za-z]*' ;;
    *) pattern=$1 ;;
    esac
    [ "$(grep -c '^dtrain: ' "$err")" -eq 1 ] && grep -qE "^dtrain: (.*: )?($pattern): " "$err"
}
trains()
{
    [ "$status" -eq 0 ] && [ "$(grep '^Weights' "$out")" = "$weights" ]
}
ends_well()
{
    case $1 in
    # To give back what the process leaves anyway, and versions for a listing.
    cudaFree* | *Destroy | ncclCommFinalize | *GetVersion) trains ;;
    *) { [ "$status" -eq 1 ] || [ "$status" -eq 69 ]; } && names_call "$1" ;;
    esac
}

for comm in nccl mpi; do
    DTRAIN_FAKE_COUNTS=$work/counts job 1 "$@" --comm $comm --watchdog 0
    weights=$(grep '^Weights' "$out")
    check "trains with --comm $comm" [ "$status" -eq 0 ]
    while read -r function calls; do
        for call in 1 $((calls / 2 + 1)); do
            [ "$call" -le "$calls" ] || continue
            [ "$call" -eq 1 ] || [ $comm = nccl ] || continue # the same functions, most of them
            DTRAIN_FAKE_FAULT=$function:$call job 1 "$@" --comm $comm --watchdog 0
            last="$last, DTRAIN_FAKE_FAULT=$function:$call"
            check "$function fails in call $call of $calls" ends_well "$function"
        done
    done <"$work/counts"
done

# On one of several ranks: the others do not wait for ever.
cat >"$work/on_rank_1" <<SCRIPT
#!/bin/sh
[ "\${OMPI_COMM_WORLD_RANK:-\$PMIX_RANK}" -ne 1 ] || export DTRAIN_FAKE_FAULT="\$FAULT"
exec "$dtrain" "\$@"
SCRIPT
chmod +x "$work/on_rank_1"
dtrain=$work/on_rank_1
for fault in cudaSetDevice:1 cudaMalloc:5 ncclCommInitRankConfig:1 ncclAllReduce:2 cudaGraphLaunch:3 \
    async:60; do
    FAULT=$fault job 3 "$@"
    last="$last, $fault on rank 1"
    check 'ends' [ "$status" -eq 1 ]
    check 'names the rank' grep -q '^dtrain: rank 1 on ' "$err"
    check 'and the call' names_call "${fault%:*}"
done
finish
