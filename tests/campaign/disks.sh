#!/bin/sh
# disks.sh DTRAIN: trainings on disks that are full, read-only or of limited use. They go on, say
# what is wrong, end with status 74, and leave the checkpoints that were there.
set -eu
dtrain=$1

# Disks of our own, in a mount namespace that ends with this script.
if [ -z "${DTRAIN_TEST_MOUNTS:-}" ]; then
    for namespace in '--mount' '--mount --map-root-user'; do
        # shellcheck disable=SC2086 # a list
        if unshare $namespace mount -t tmpfs none /mnt 2>/dev/null; then
            DTRAIN_TEST_MOUNTS=yes exec unshare $namespace sh "$0" "$@"
        fi
    done
    echo 'skipped: mounts are not permitted here'
    exit 77
fi
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
trap 'umount "$work/disk" 2>/dev/null; rm -rf "$work"' EXIT
export TMPDIR="$work" # root of a namespace is another user to MPI, which has files in /tmp

cat >"$work/net" <<'EOT'
input 28 28 1
maxpool 4
dense 200 relu
dense 10
EOT
common="--data synthetic:200 --validation-size 40 --model net --threads 1 --eval-every 100 \
    --steps 8 --keep 2"

weights()
{
    sed -n 's/^Weights: //p' "$out"
}

# shellcheck disable=SC2086 # $common is a list
train() # RANKS OPTION...
{
    train_ranks=$1
    shift
    job "$train_ranks" $common --resume auto --checkpoint-every 2 --checkpoint-dir disk/run "$@"
}

new_disk() # OPTIONS
{
    umount "$work/disk" 2>"$err" || true
    mkdir -p "$work/disk"
    mount -t tmpfs -o "$1" none "$work/disk"
}

# What was written is good, and nothing is left of what was not.
expect_checkpoints() # STEP...
{
    for step in "$@"; do
        printf 'ckpt-s%09d.h5\n' "$step"
    done >"$work/expected"
    echo latest >>"$work/expected"
    # shellcheck disable=SC2012 # names of ours
    ls -A "$work/disk/run" | diff "$work/expected" - >"$work/difference" || true
    check "checkpoints $*" [ ! -s "$work/difference" ]
    for step in "$@"; do
        check "that of step $step is good" "$dtrain" info \
            "$work/disk/run/$(printf 'ckpt-s%09d.h5' "$step")" >"$work/info"
    done
}

# shellcheck disable=SC2086 # $common is a list
job 1 $common --checkpoint-dir none
expected=$(weights)
check 'has weights' [ -n "$expected" ]

# Room for two checkpoints and a half: the third one and the fourth find the disk full, until there
# is more room.
new_disk size=256k
train 1
check 'exit status 74' [ "$status" -eq 74 ]
check "ends as $expected" [ "$(weights)" = "$expected" ]
for step in 6 8; do
    check 'says what and why' grep -q "^dtrain: warning: no checkpoint: cannot write \
disk/run/ckpt-s00000000$step.h5: write: No space left on device" "$err"
done
check 'twice' [ "$(grep -c '^dtrain: ' "$err")" -eq 2 ]
expect_checkpoints 2 4
job 1 eval disk/run
check 'is evaluated' [ "$status" -eq 0 ]
mount -t tmpfs -o remount,size=2m none "$work/disk"
train 2
check 'goes on' [ "$status" -eq 0 ]
check "ends as $expected" [ "$(weights)" = "$expected" ]
expect_checkpoints 6 8

# A full disk can be the end.
new_disk size=256k
train 2 --on-checkpoint-failure stop --steps 1000
check 'exit status 74' [ "$status" -eq 74 ]
check 'stops' grep -q '^Stopped by a checkpoint that cannot be written after ' "$out"
expect_checkpoints 2 4

# From the start.
new_disk size=4k
head -c 4096 /dev/zero >"$work/disk/filler"
train 2
expect_failure 74 'No space left on device'
new_disk ro
train 2
expect_failure 74 'disk/run: Read-only file system'

# A disk that has become read-only is good for reading.
new_disk size=2m
train 1 --steps 4
mount -t tmpfs -o remount,ro none "$work/disk"
train 2
expect_failure 74 'Read-only file system'
expect_checkpoints 2 4
job 2 eval disk/run
check 'is evaluated' [ "$status" -eq 0 ]

# A limit for the size of files: of the program alone, as MPI's shared memory is files, too.
new_disk size=2m
cat >"$work/limited" <<EOT
#!/bin/sh
exec $mpirun --bind-to none -n 1 sh -c 'ulimit -f 40; exec "\$@"' sh "$dtrain" "\$@"
EOT
chmod +x "$work/limited"
dtrain_itself=$dtrain
dtrain=$work/limited
train 1
dtrain=$dtrain_itself
check 'exit status 74' [ "$status" -eq 74 ]
check 'says what and why' \
    grep -q '^dtrain: warning: no checkpoint: cannot write .*: File too large' "$err"
check "ends as $expected" [ "$(weights)" = "$expected" ]
check 'nothing is left' [ -z "$(ls -A "$work/disk/run")" ]
train 1
check 'begins anew' [ "$status" -eq 0 ]

finish
