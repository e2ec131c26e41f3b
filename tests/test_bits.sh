#!/bin/sh
# test_bits.sh DTRAIN STEPS [full|quick]: trainings that must end with the same weights, bit for bit, do:
# on any number of ranks and threads, with and without overlap and shared memory, with any buckets.
#
# STEPS is how long each takes (the promise is about 300). The networks are small ones, and the
# reference kernels, which are slow, do a sixth of the steps on few ranks; `full` adds the default
# network and does all steps everywhere, with real MNIST where DTRAIN_DATA has it, which takes half an
# hour; `quick` is one network on 1, 2 and 4 ranks.
set -eu
dtrain=$1
steps=$2
full=${3:-}
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

data=synthetic:2500 # with more the evaluation takes longest
[ "$full" != full ] || data=${DTRAIN_DATA:-synthetic:20000}
unset DTRAIN_DATA
cat >"$work/net" <<'EOT'
input 28 28 1
conv 6 5x5 relu
maxpool 2
conv 10 3x3 relu
maxpool 2
dense 48 relu
dropout 0.5
dense 10
EOT

# Layers that the fused kernels take, with a pool and without, and one large enough for ranks to
# share its factors.
cat >"$work/fused-net" <<'EOT'
input 28 28 1
conv 16 5x5 relu
maxpool 2
conv 32 3x3 relu
conv 16 5x5 relu
maxpool 2
dense 96 relu
dropout 0.5
dense 10
EOT

# hash RANKS OPTION...: trains; the weights' hash is in $hash
hash()
{
    job "$@" --steps "$steps" --eval-every 100000 --validation-size 100 --checkpoint-dir none
    check 'trains' [ "$status" -eq 0 ]
    hash=$(sed -n 's/^Weights: //p' "$out")
    check 'has weights' [ -n "$hash" ]
}
# shellcheck disable=SC2086 # $common is a list
same() # RANKS OPTION...: as $expected
{
    hash "$@" $common
    check "'$hash' is $expected" [ "$hash" = "$expected" ]
}

# wrap COMMAND: from now on rank 1 runs this instead of the program, with the same options
program=$dtrain
wrap()
{
    cat >"$work/wrapped" <<EOT
#!/bin/sh
[ "\${OMPI_COMM_WORLD_RANK:-\${PMI_RANK:-0}}" = 1 ] || exec "$program" "\$@"
$1
EOT
    chmod +x "$work/wrapped"
    dtrain=$work/wrapped
}

# matrix OPTION...: all of them like one rank with one thread; buckets of the sizes in $buckets
# shellcheck disable=SC2086 # $common is a list
matrix()
{
    common=$*
    hash 1 --threads 1 $common
    expected=$hash
    echo "$common: $expected"
    same 1 --threads 2
    for ranks in 2 3 4 5 6 7 8; do
        same "$ranks" --threads 1
    done
    same 2 --threads 2
    same 3 --threads 2 --overlap no
    same 8 --threads 1 --overlap no
    for bytes in $buckets; do
        same 2 --threads 1 --bucket-bytes $bytes
        same 3 --threads 1 --bucket-bytes $bytes --overlap no
        same 5 --threads 1 --bucket-bytes $bytes --window-ranks 2
    done
    # Without shared memory, and with groups of ranks that share some.
    for ranks in 2 3 4 7; do
        same "$ranks" --threads 1 --window-ranks 1
    done
    same 8 --threads 1 --window-ranks 3
    same 4 --threads 1 --window-ranks 2 --overlap no
}

# few OPTION...: the most important of them
# shellcheck disable=SC2086 # $common is a list
few()
{
    common="$* --threads 1"
    hash 1 $common
    expected=$hash
    same 2
    same 4
    same 4 --window-ranks 1
}

if [ "$full" = quick ]; then
    few --model fused-net --data "$data"
    finish
fi

buckets='1000 20000 400000'
# shellcheck disable=SC2086 # $common is a list
{
    matrix --model net --data "$data" --kernels onednn
    matrix --model fused-net --data "$data" --kernels fused
    reference="--model net --data $data --kernels reference"
    if [ "$full" = full ]; then
        matrix $reference
    else
        steps=$((steps / 6))
        few $reference
        steps=$2
    fi

    # The order of additions is what it depends on: MPI's own is another one.
    common="--model net --data $data"
    hash 1 --threads 1 $common
    expected=$hash
    hash 3 --threads 1 --reduce allreduce $common
    check 'another order of additions gives other weights' [ "$hash" != "$expected" ]

    # Ranks with different CPUs compute with what all of them have.
    common="--model fused-net --data $data"
    hash 1 --isa baseline $common
    expected=$hash
    wrap 'exec "'"$program"'" "$@" --isa baseline'
    same 3 --threads 1
    dtrain=$program
    if grep -q 'avx2' /proc/cpuinfo; then
        check 'says so' grep -q 'CPUs have more, but all compute alike' "$out"
        hash 1 --threads 1 $common
        check 'other instructions round in another way' [ "$hash" != "$expected" ]
    fi

    # Where one rank has no memory to share, all send messages.
    common="--model net --data $data"
    hash 1 --threads 1 $common
    expected=$hash
    wrap 'trap "" XFSZ; ulimit -f 1; exec "'"$program"'" "$@"'
    export OMPI_MCA_btl=self,tcp # MPI's own shared memory is limited too
    same 3 --threads 1
    unset OMPI_MCA_btl
    check 'says so' grep -q 'no memory to share.*messages between 3 groups' "$out"
    dtrain=$program

    # Shards of different sizes, a last batch that is not full; more ranks than 8.
    common="--model net --data synthetic:1103 --shards 12 --batch-size 60"
    hash 1 --threads 1 $common
    expected=$hash
    for ranks in 2 3 5 7 11 12; do
        same "$ranks" --threads 1
    done
    same 5 --threads 2 --window-ranks 1

    if [ "$full" = full ]; then
        buckets='20000 400000 8000000' # smaller ones are minutes of messages
        matrix --data "$data"
    fi
}
finish
