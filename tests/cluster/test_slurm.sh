#!/bin/sh
# test_slurm.sh DTRAIN [PLUGIN]: the job scripts, and dtrain under srun, on a Slurm of several nodes
# (slurm.sh). PLUGIN is a GPU plugin in which the CPU stands for a GPU. Skipped where there can be
# no such Slurm.
# shellcheck disable=SC2086 # lists of options
set -eu
dtrain=$1
plugin=${2:-}
[ -z "$plugin" ] || plugin=$(CDPATH='' cd -- "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
folder=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
mine=
trap '[ -z "$mine" ] || bash "$folder/slurm.sh" stop; rm -rf "$work"' EXIT
cd "$work"

# slurm COMMAND [ARGUMENT]...: on the login node; output in $out, errors in $err, status in $status
slurm()
{
    last="$*"
    status=0
    timeout 120 bash "$folder/slurm.sh" run "$@" </dev/null >"$out" 2>"$err" || status=$?
}
ask()
{
    bash "$folder/slurm.sh" run "$@" </dev/null
}
says()
{
    grep -q -- "$1" "$out"
}
weights()
{
    sed -n 's/^Weights: //p' "$out"
}

# submit SCRIPT 'OPTION OF SBATCH...' OPTION...: sets $job; what the job prints goes to $log
submit()
{
    script=$1 options=$2
    shift 2
    slurm sbatch --parsable $options "checkout/jobs/$script.sbatch" "$@"
    check 'is submitted' [ "$status" -eq 0 ]
    job=$(cat "$out")
    log=$work/dtrain-$script-$job.out
}
until_true() # SECONDS COMMAND...
{
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}
prints() # TEXT: before long
{
    check "prints '$1'" until_true 60 grep -qs -- "$1" "$log"
}
detail() # NAME: of the job, as Slurm knows it
{
    ask scontrol show job "$job" | sed -n "s/^\(.* \)*$1=\([^ ]*\).*/\2/p"
}
over()
{
    case $(detail JobState) in
    PENDING | CONFIGURING | RUNNING | STOPPED | COMPLETING) false ;;
    esac
}
# ends STATE STATUS: the job does, before long; what it has printed is in $out
ends()
{
    check 'ends' until_true 120 over
    last="job $job, a $script.sbatch: $(detail JobState)"
    status=$(detail ExitCode)
    cat "$log" >"$out" || true
    : >"$err"
    check "state $1" [ "$(detail JobState)" = "$1" ]
    check "status $2" [ "$status" = "$2" ]
}

# Only a cluster that this test made is this test's to remove: not one that was there already (1).
mine=yes
status=0
bash "$folder/slurm.sh" start 4 </dev/null >"$out" 2>"$err" || status=$?
case $status in
1 | 69)
    mine=
    cat "$err"
    exit 77
    ;;
esac
check 'there is a cluster' [ "$status" -eq 0 ]
[ "$status" -eq 0 ] || finish

# A checkout in which dtrain was built.
mkdir -p checkout/build/release
cp -R "$folder/../../jobs" checkout/
ln -s "$dtrain" checkout/build/release/dtrain
printf 'input 28 28 1\nconv 6 5x5 relu\nmaxpool 2\ndense 40 relu\ndense 10\n' >net
common='--data synthetic:1000 --validation-size 100 --model net --threads 1 --eval-every 20'
few="$common --steps 40 --checkpoint-dir none"
endless="$common --steps 100000000"
two_nodes='--nodes=2 --ntasks-per-node=1 --cpus-per-task=1'
one_node='--nodes=1 --ntasks-per-node=2 --cpus-per-task=1'

# Nothing but srun.
slurm srun -n 4 "$dtrain" $few
check 'trains' [ "$status" -eq 0 ]
check 'on four ranks' says '^dtrain .* on 4 ranks x 1 thread, 1 host (rank 0 on h1)'
expected=$(weights)
slurm srun --mpi=none -n 2 "$dtrain" $few
expect_failure 69 'try srun --mpi=pmix'

# A training that is long enough to be interrupted, but not much longer.
slurm srun -N 1 -n 2 "$dtrain" $common --steps 500 --checkpoint-dir none
steps=$(sed -n 's/^Trained .* \([0-9.]*\) ms.step$/\1/p' "$out" | awk '{ print int(12000 / $1) }')
check 'takes its time' [ "${steps:-0}" -gt 500 ]

# A time limit, which is a minute at least. To train for all of it would be too much, so the ranks
# stand still until a few seconds before, and other jobs go on meanwhile.
submit requeue "--time=1 $one_node" $common --steps "$steps"
limited=$job
prints '^Ready after'
ask scancel -s STOP "$limited"
few_seconds_are_left()
{
    [ "$(ask squeue -h -j "$limited" -o %L | tr -d :)" -le 6 ]
}
(until_true 60 few_seconds_are_left && ask scancel -s CONT "$limited") >/dev/null 2>&1 &
waiting=$!

# Data that nobody names is the checkout's; here there is nothing in it.
mkdir -p checkout/data/mnist
submit cpu "$one_node" --dry-run
ends FAILED 65:0
check "tells of the checkout's data" says "$work/checkout/data/mnist.*named by DTRAIN_DATA"
rm -r checkout/data

# Threads and cores. Most clusters bind tasks to cores by themselves; here srun has to be told.
submit cpu "$two_nodes" $few
ends COMPLETED 0:0
check 'says which program it is' says "^$work/checkout/build/release/dtrain\$"
check 'on two nodes' says '^dtrain .* on 2 ranks x 1 thread, 2 hosts'
check 'knows the time limit' says '^Time: 1[78][0-9][0-9] s are left (Slurm)'
check 'trains' [ "$(weights)" = "$expected" ]
export SLURM_CPU_BIND=cores
submit cpu "--exclusive $one_node" --data synthetic:9000 --dry-run
ends COMPLETED 0:0
check 'a core for rank 0' says '^    rank 0 .* 1 thread on cores 0$'
check 'another for rank 1' says '^    rank 1 .* 1 thread on cores 1$'
submit cpu '--exclusive --nodes=2 --ntasks-per-node=1 --cpus-per-task=2' --data synthetic:9000 \
    --dry-run
ends COMPLETED 0:0
check 'two threads each' says '^dtrain .* on 2 ranks x 2 threads, 2 hosts'
check 'on the cores of its node' says '^    rank 1 .* 2 threads on cores 0-1$'
check 'nothing to complain of' [ -z "$(grep '^Note: .*cores' "$out")" ]
unset SLURM_CPU_BIND

# GPUs.
gpus='--nodes=1 --ntasks-per-node=2 --gres=gpu:2 --cpus-per-task=1'
# shellcheck disable=SC2016 # for that shell
slurm srun -n 2 --gres=gpu:2 sh -c 'echo "sees $CUDA_VISIBLE_DEVICES"'
check 'ranks see the GPUs of the node' [ "$(grep -cx 'sees 0,1' "$out")" -eq 2 ]
if ! "$dtrain" info --devices | grep -q '^Device'; then
    submit gpu "$gpus" $few
    ends FAILED 69:0
    check 'says that there is no GPU' says '^dtrain: .*--backend cuda: .*GPU'
fi
if [ -n "$plugin" ]; then
    emulated="--export=DTRAIN_PLUGIN=$plugin,DTRAIN_FAKE_DEVICES=2"
    tiny='--data synthetic:200 --validation-size 20 --model net --batch-size 8 --steps 3
        --watchdog 0 --checkpoint-dir none'
    submit gpu "$gpus $emulated" $tiny
    ends COMPLETED 0:0
    check 'a GPU for rank 0' says '^GPU of rank 0: .*, device 0 of 2 on h'
    check 'another for rank 1' says '^GPU of rank 1: .*, device 1 of 2 on h'
    check 'trains' [ -n "$(weights)" ]
    submit gpu "$gpus $emulated --gres=gpu:1" $tiny
    ends FAILED 69:0
    check 'one is too few' says 'this host has 2 ranks, and they see 1 GPU'
fi

# mpirun in a job. It starts its own processes by srun.
slurm sbatch --parsable $two_nodes --output=mpirun.out \
    --wrap "mpirun --bind-to none '$dtrain' $few"
job=$(cat "$out") log=mpirun.out script=mpirun
ends COMPLETED 0:0
check 'on two nodes' says '^dtrain .* on 2 ranks x 1 thread, 2 hosts'
check 'trains' [ "$(weights)" = "$expected" ]

# Containers, by a program that stands for Sarus (test_apptainer.sh has Apptainer itself).
if [ -n "${DTRAIN_DATA:-}" ]; then
    mkdir bin
    ln -s "$folder/sarus" "$dtrain" bin/
    sed -i "s|^# module load sarus.*|PATH='$work/bin':\$PATH|" checkout/jobs/shifter.sbatch
    small='--model net --threads 1 --steps 40 --eval-every 20'
    job 2 --data "$DTRAIN_DATA" $small --checkpoint-dir none
    alone=$(weights)
    submit shifter "$two_nodes" --data "$DTRAIN_DATA" $small
    ends COMPLETED 0:0
    check 'on two nodes' says '^dtrain .* on 2 ranks x 1 thread, 2 hosts'
    check 'has the data at its place' says '^Data: .* in /data:'
    check 'trains' [ "$(weights)" = "$alone" ]
    check 'checkpoints are outside' [ -f "runs/$job/ckpt-s000000040.h5" ]
fi

# A rank that is killed: the others do not wait for it, even without a watchdog.
submit cpu "$two_nodes" $endless --watchdog 0
prints '^Step 20 '
victim=
host=$(sed -n 's/^    rank 1 *\([^ ]*\) .*/\1/p' "$log")
for process in $(ip netns pids "dtr-$host"); do
    [ "$(cat "/proc/$process/comm")" != dtrain ] || victim=$process
done
check 'a rank to kill' kill -KILL "$victim"
ends FAILED 137:0

# scancel leaves a checkpoint, and is meant.
submit requeue "$one_node" $endless
prints '^Step 20 '
ask scancel "$job"
ends CANCELLED 0:15
check 'says by what' says '^Stopped by SIGTERM'
check 'has left a checkpoint' [ -f "runs/$job/$(cat "runs/$job/latest")" ]
check 'does not start again' [ "$(detail Restarts)" = 0 ]

# No more restarts than allowed; none after a mistake.
submit requeue "$one_node --export=MOST_RESTARTS=1" $endless
prints '^Step 20 '
ask scancel -s USR1 "$job"
prints '^requeue.sbatch: back into the queue, restart 1 of at most 1$'
prints "^Resumed: runs/$job/ckpt-"
ask scancel -s USR1 "$job"
ends FAILED 75:0
check 'has stopped twice' [ "$(grep -c '^Stopped by SIGUSR1' "$out")" -eq 2 ]
check 'says why it is over' says '^requeue.sbatch: not finished after 1 restarts'
submit requeue "$one_node" --no-such-option
ends FAILED 2:0
check 'does not start again' [ "$(detail Restarts)" = 0 ]

# The table is what the logs say.
submit scaling '--nodes=3 --ntasks-per-node=1' $few --steps 101
ends COMPLETED 0:0
printf '1 100\n2\n3\n' >rows
awk '$1 ~ /^[0-9]+$/ { print $1 ($1 == 1 ? " " $4 : "") }' "$out" >got
check 'a row for 1, 2 and 3 ranks' diff rows got
for ranks in 1 2 3; do
    check "trains on $ranks ranks" \
        grep -q "^dtrain .* on $ranks rank.* $ranks host" "scaling-$job/$ranks"
    sed -n 's/^Step .*, \(.*\) ms$/\1/p' "scaling-$job/$ranks" | sed 1d | sort -n >'times'
    check "$ranks ranks: the median" grep -Eq "^ +$ranks +$(sed -n 3p 'times') " "$out"
done
check 'one training, whatever the ranks' \
    [ "$(awk '$1 ~ /^[0-9]+$/ { print $NF }' "$out" | uniq | wc -l)" -eq 1 ]

# What became of the time limit.
job 1 $common --steps "$steps" --checkpoint-dir none
expected=$(weights)
check 'is there to compare with' [ -n "$expected" ]
wait $waiting || check 'was let go in time' false
script=requeue job=$limited log=$work/dtrain-requeue-$limited.out
ends COMPLETED 0:0
check 'stopped by the time limit' says '^Stopped by the time limit after '
check 'went on' says "^Resumed: runs/$limited/ckpt-"
check 'once' [ "$(detail Restarts)" = 1 ]
check "to the weights of a run without interruption" [ "$(weights | tail -n 1)" = "$expected" ]

bash "$folder/slurm.sh" stop
mine=
check 'no file is left' [ ! -e "${TMPDIR:-/tmp}/dtrain-slurm" ]
check 'no host is left' [ -z "$(ip netns list | grep '^dtr-')" ]
finish
