#!/bin/bash
# slurm.sh: a Slurm cluster on this machine, for tests of job scripts. Needs root.
#
#   tests/cluster/slurm.sh start NODES [CPUS [GPUS]]
#   tests/cluster/slurm.sh run COMMAND [ARGUMENT]...
#   tests/cluster/slurm.sh stop
#
# start makes the hosts of hosts.sh: h0 is the login node, where slurmctld runs, h1, h2, ... are
# compute nodes with CPUS cores (4) and GPUS GPUs (2), each with a slurmd of its own. All nodes have
# the same cores, the machine's, and may have more than it has; the GPUs are device files that do
# nothing. run starts a command on the login node, in the caller's folder and environment: sbatch,
# srun, squeue. stop ends all jobs and daemons and removes what there is of them; it may be called
# at any time.
#
#   tests/cluster/slurm.sh start 2
#   tests/cluster/slurm.sh run srun -N 2 -n 4 build/release/dtrain --steps 100
#   tests/cluster/slurm.sh stop
#
# MPI programs are started by PMIx, tasks are bound to cores only where srun is told to
# (--cpu-bind=cores, on cores that the machine has), and a requeued job waits seconds, not minutes.
# Nodes' processes are in sessions of their own, and the kernel divides a core among sessions
# (/proc/sys/kernel/sched_autogroup_enabled), where sched_yield() does not reach another one: more
# ranks than the machine has cores, on several nodes, may stand still for seconds, or for as long as
# a watchdog takes to notice. With 0 there they do not.
# Configuration, state and logs are in the folder dtrain-slurm in $TMPDIR, the network is
# that of the hosts: /etc/slurm, a munge daemon and a Slurm of this machine are neither used nor
# touched. Exit status 69: there can be no cluster here; 1: there is one, or other hosts, already.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
# shellcheck source=jobs/lib/packages.sh
. "$root/jobs/lib/packages.sh"

self=$root/tests/cluster/slurm.sh
hosts=$root/tests/cluster/hosts.sh
state=${TMPDIR:-/tmp}/dtrain-slurm
PATH=$PATH:/usr/sbin:/sbin # the daemons, which some users' PATH does not show
export SLURM_CONF=$state/slurm.conf

usage()
{
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$self"
}

on()
{
    bash "$hosts" run "$@"
}

# Whatever runs on the hosts ends with them, so these are all processes.
take_down()
{
    bash "$hosts" down
    rm -rf "$state"
}

# One step of the set-up. The first that fails is the reason why there can be no cluster.
try()
{
    local said
    said=$("$@" 2>&1) && return
    [[ -n $said ]] || said=$(tail -n 2 "$state"/log/* 2>/dev/null)
    take_down
    die 69 "slurm.sh: there can be no Slurm here: '$*' says: $said"
}

# Keys may be read by their owner alone; the daemon is told (--force) that folders may be a test's.
start_munge()
{
    try dd if=/dev/urandom of="$state/munge.key" bs=1024 count=1
    try chmod 600 "$state/munge.key"
    try on h0 munged --force --key-file="$state/munge.key" --socket="$state/munge.socket" \
        --pid-file="$state/munge.pid" --seed-file="$state/munge.seed" \
        --log-file="$state/log/munge"
}

# Credentials that expire soon let a requeued job start again soon. Nodes have folders of their own
# (%n), else Slurm's PMIx mistakes one for the other's.
configure()
{
    local nodes=$1 cpus=$2 gpus=$3 gres='' i
    mkdir -p "$state/state" "$state/log" "$state/gpu"
    for ((i = 0; i < gpus; i++)); do
        try mknod "$state/gpu/$i" c 1 3
    done
    if ((gpus > 0)); then
        gres="Gres=gpu:$gpus"
        echo "NodeName=h[1-$nodes] Name=gpu File=$state/gpu/[0-$((gpus - 1))]" >"$state/gres.conf"
    fi
    for ((i = 1; i <= nodes; i++)); do
        mkdir -p "$state/spool.h$i" "$state/tmp.h$i"
    done
    # As mpirun does where there are more ranks than cores.
    printf '#!/bin/sh\necho export OMPI_MCA_mpi_yield_when_idle=1\n' >"$state/task_prolog"
    chmod +x "$state/task_prolog"
    cat >"$SLURM_CONF" <<CONF
ClusterName=dtrain
SlurmctldHost=h0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$state/munge.socket,cred_expire=5
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool.%n
TmpFS=$state/tmp.%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.%n.pid
SlurmctldLogFile=$state/log/slurmctld
SlurmdLogFile=$state/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=None
TaskProlog=$state/task_prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
MpiDefault=pmix
GresTypes=gpu
KillWait=10
ReturnToService=2
PropagateResourceLimits=NONE
NodeName=h[1-$nodes] CPUs=$cpus RealMemory=1024 $gres
PartitionName=all Nodes=ALL Default=YES
CONF
}

all_idle() # NODES
{
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        [[ $(on h0 sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l) -ne $1 ]] || return 0
        sleep 0.1
    done
    echo "not all nodes are idle:"
    on h0 sinfo -N -l
    return 1
}

command_start()
{
    local nodes=${1:-} cpus=${2:-4} gpus=${3:-2} status=0 i
    [[ $# -le 3 && $nodes =~ ^[1-9][0-9]?$ && $cpus =~ ^[1-9][0-9]*$ && $gpus =~ ^[0-9]+$ ]] ||
        die 2 "slurm.sh: start NODES [CPUS [GPUS]], numbers all (see --help)"
    packages_has slurm ||
        die 69 "slurm.sh: no Slurm (Debian: apt-get install $(packages_names 2 slurm))"

    bash "$hosts" up $((nodes + 1)) || status=$?
    [[ $status -eq 0 ]] || exit "$status"
    trap 'take_down; exit 130' INT
    trap 'take_down; exit 143' HUP TERM
    rm -rf "$state"
    try mkdir -m 755 "$state"
    configure "$nodes" "$cpus" "$gpus"
    start_munge
    try on h0 slurmctld -c
    for ((i = 1; i <= nodes; i++)); do
        try on "h$i" slurmd -N "h$i"
    done
    try all_idle "$nodes"
    say "slurm: login node h0, compute nodes h1 to h$nodes, each with $cpus cores, $gpus GPUs"
}

command_run()
{
    [[ $# -ge 1 ]] || die 2 "slurm.sh: run COMMAND [ARGUMENT]... (see --help)"
    [[ -f $SLURM_CONF ]] ||
        die 2 "slurm.sh: there is no cluster; make one: tests/cluster/slurm.sh start NODES"
    # mpi_environment keeps Open MPI within one host, and sbatch and srun would hand that on.
    unset OMPI_MCA_btl_tcp_if_include
    exec bash "$hosts" run h0 "$@"
}

command_stop()
{
    [[ $# -eq 0 ]] || die 2 "slurm.sh: stop takes no arguments"
    take_down
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
start | run | stop) "command_$command" "$@" ;;
-h | --help) usage ;;
*) die 2 "slurm.sh: start, run or stop (see --help)" ;;
esac
