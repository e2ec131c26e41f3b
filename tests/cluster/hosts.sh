#!/bin/bash
# hosts.sh: several hosts on this machine, for tests and measurements of several hosts. Needs root.
#
#   tests/cluster/hosts.sh up N [RATE [BURST]]
#   tests/cluster/hosts.sh run HOST COMMAND [ARGUMENT]...
#   tests/cluster/hosts.sh mpirun RANKS_PER_HOST [MPIRUN_ARGUMENT]...
#   tests/cluster/hosts.sh down
#
# up makes N hosts, h0, h1, ..., on one switch. RATE, like 200mbit, is what a host's link carries in
# each direction; BURST (64kb) is what may pass at once after a pause. Without RATE, or with none,
# the links are as fast as the machine. down ends what still runs on the hosts and removes them; it
# may be called at any time.
#
# run starts a command on a host, in the caller's folder and environment: the host has a name, an
# /etc/hosts, a network and a /dev/shm of its own; cores, memory and files are the machine's. mpirun
# is that of Open MPI (4 or 5), started on h0 over all hosts, for example:
#
#   tests/cluster/hosts.sh up 4 200mbit
#   tests/cluster/hosts.sh mpirun 1 build/release/dtrain --threads 1
#   tests/cluster/hosts.sh down
#
# Its ranks are not bound to cores, because the first core of every host is the same one, unless an
# option of mpirun says so.
#
# Hosts and switch are network namespaces, dtr-h0, ... and dtr-switch: this machine's own network is
# never touched. Other files are in the folder dtrain-hosts in $TMPDIR. Exit status 69: there can be
# no hosts here; 1: some are up already.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"

self=$root/tests/cluster/hosts.sh
state=${TMPDIR:-/tmp}/dtrain-hosts
subnet=10.77.0
namespaces=/var/run/netns # where ip keeps them

usage()
{
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$self"
}

require()
{
    local tool
    [[ $(id -u) -eq 0 ]] || die 69 "hosts.sh: making hosts takes root"
    for tool in ip tc nsenter unshare mount hostname; do
        command -v "$tool" >/dev/null ||
            die 69 "hosts.sh: no $tool (Debian: apt-get install iproute2 util-linux hostname)"
    done
}

# What there is, one namespace a line: the hosts in their order, then the switch.
list()
{
    ip netns list | awk '$1 ~ /^dtr-(h[0-9]+|switch)$/ { print $1 }' | sort -V
}

hosts()
{
    list | sed -n 's/^dtr-h/h/p'
}

# One step of the set-up. The first that fails is the reason why there can be no hosts.
try()
{
    local said
    said=$("$@" 2>&1) && return
    take_down
    die 69 "hosts.sh: there can be no hosts here: '$*' says: ${said%%$'\n'*}"
}

# limit NAMESPACE DEVICE RATE BURST: what the device sends. The queue is long enough that several
# hosts may send to one and lose nothing.
limit()
{
    try tc -n "$1" qdisc add dev "$2" root tbf rate "$3" burst "$4" latency 100ms
}

bring_up()
{
    local count=$1 rate=$2 burst=$3 host port i
    try ip netns add dtr-switch
    try ip -n dtr-switch link add dtr-bridge type bridge
    try ip -n dtr-switch link set dtr-bridge up
    for ((i = 0; i < count; i++)); do
        host=dtr-h$i port=dtr-port$i
        try ip netns add "$host"
        try ip -n "$host" link set lo up
        try ip -n "$host" link add eth0 type veth peer name "$port" netns dtr-switch
        try ip -n "$host" address add "$subnet.$((i + 1))/24" dev eth0
        if [[ $rate != none ]]; then
            # In packets as they would be on a wire, else one of 64 KiB holds up all behind it.
            try ip -n "$host" link set eth0 gso_max_segs 1
            limit "$host" eth0 "$rate" "$burst"
            limit dtr-switch "$port" "$rate" "$burst"
        fi
        try ip -n dtr-switch link set "$port" master dtr-bridge up
        try ip -n "$host" link set eth0 up
        echo "$subnet.$((i + 1)) h$i" >>"$state/hosts"
    done
}

# A process may fork while it is being killed, hence the loop.
take_down()
{
    local namespace pids
    for namespace in $(list); do
        while pids=$(ip netns pids "$namespace") && [[ -n $pids ]]; do
            # shellcheck disable=SC2086 # a list
            kill -KILL $pids 2>/dev/null || true
            sleep 0.05
        done
        ip netns delete "$namespace"
    done
    rm -rf "$state"
}

command_up()
{
    local count=${1:-} rate=${2:-none} burst=${3:-64kb}
    [[ $# -le 3 && $count =~ ^[1-9][0-9]?$ ]] ||
        die 2 "hosts.sh: up N [RATE [BURST]], with N from 1 to 99 (see --help)"
    [[ $rate =~ ^(none|[0-9.]+[kmg]bit)$ ]] ||
        die 2 "hosts.sh: the rate '$rate' is neither like 200mbit nor none"
    [[ $burst =~ ^[0-9]+(b|kb|mb)$ ]] || die 2 "hosts.sh: the burst '$burst' is not like 64kb"
    require
    [[ -z $(list) ]] ||
        die 1 "hosts.sh: there are hosts already; remove them with: tests/cluster/hosts.sh down"

    trap 'take_down; exit 130' INT
    trap 'take_down; exit 143' HUP TERM
    rm -rf "$state"
    try mkdir -m 700 "$state"
    echo '127.0.0.1 localhost' >"$state/hosts"
    # What mpirun takes for ssh: HOST, then a command line for a shell.
    # shellcheck disable=SC2016 # for that script
    printf '#!/bin/bash\nexec bash %q run "$1" bash -c "${*:2}"\n' "$self" >"$state/agent"
    chmod +x "$state/agent"
    bring_up "$count" "$rate" "$burst"
    say "hosts: $count, h0 to h$((count - 1)), rate of a link: $rate"
}

command_down()
{
    [[ $# -eq 0 ]] || die 2 "hosts.sh: down takes no arguments"
    require
    take_down
}

# The mounts are the command's alone and end with it.
command_run()
{
    [[ $# -ge 2 ]] || die 2 "hosts.sh: run HOST COMMAND [ARGUMENT]... (see --help)"
    local host=$1
    shift
    require
    hosts | grep -qxF -- "$host" ||
        die 2 "hosts.sh: no host $host; there are: $(hosts | xargs) (tests/cluster/hosts.sh up N)"
    [[ -f $state/hosts ]] ||
        die 2 "hosts.sh: no $state/hosts; was TMPDIR another one when the hosts were made?"
    # shellcheck disable=SC2016 # for the inner shell
    exec nsenter --net="$namespaces/dtr-$host" unshare --uts --mount bash -euc '
        hostname "$1"
        mount --bind "$2" /etc/hosts
        mount -t tmpfs tmpfs /dev/shm
        shift 2
        exec "$@"
    ' hosts.sh "$host" "$state/hosts" "$@"
}

# Open MPI 4 reads OMPI_MCA_ variables, Open MPI 5 some of them and PRTE_MCA_. What stands on
# mpirun's command line goes before both.
command_mpirun()
{
    [[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] ||
        die 2 "hosts.sh: mpirun RANKS_PER_HOST [MPIRUN_ARGUMENT]... PROGRAM (see --help)"
    local slots=$1 places
    shift
    require
    places=$(hosts | sed "s/\$/:$slots/" | paste -sd, -)
    [[ -n $places ]] || die 2 "hosts.sh: there are no hosts; make some: tests/cluster/hosts.sh up N"

    mpi_environment
    # Open MPI 5 would otherwise put all ranks on h0 when more ranks than cores are allowed.
    export PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe
    export OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent="$state/agent"
    export PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent="$state/agent"
    export OMPI_MCA_oob_tcp_if_include=$subnet.0/24 PRTE_MCA_prte_if_include=$subnet.0/24
    export OMPI_MCA_orte_tmpdir_base="$state" PRTE_MCA_prte_tmpdir_base="$state"
    export OMPI_MCA_hwloc_base_binding_policy=none PRTE_MCA_hwloc_default_binding_policy=none
    export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
    export OMPI_MCA_btl_tcp_if_include=$subnet.0/24
    command_run h0 mpirun --host "$places" "$@"
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
up | down | run | mpirun) "command_$command" "$@" ;;
-h | --help) usage ;;
*) die 2 "hosts.sh: up, run, mpirun or down (see --help)" ;;
esac
