#!/bin/bash
# rootfs.sh: runs a command on a fresh Debian system, in a copy of this checkout. Needs root.
#
#   .ci/rootfs.sh SUITE COMMAND [ARGUMENT]...      SUITE: bookworm (Debian 12), trixie (13)
#
# The system is made in $TMPDIR, and holds nothing but what Debian requires and apt. It is entered in
# mount and process namespaces of its own, so nothing stays mounted and no process stays behind.
# $DTRAIN_DATA is there too.
set -euo pipefail

[ $# -ge 2 ] || {
    echo "usage: .ci/rootfs.sh SUITE COMMAND [ARGUMENT]..." >&2
    exit 2
}
suite=$1
shift
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
system=$work/system

# shellcheck source=.ci/debian.sh
. "$checkout/.ci/debian.sh"
debian_make "$suite" "$system"
mkdir "$system/dtrain"
tar -C "$checkout" --exclude=./.git --exclude='./build*' --exclude=./data --exclude=./runs -c . |
    tar -C "$system/dtrain" -x --no-same-owner
[[ -z ${DTRAIN_DATA:-} ]] || mkdir "$system/dtrain-data"

# /proc, /dev and /sys as a container has them. Not exec: the trap above is for this shell.
# shellcheck disable=SC2016 # for the inner shell
unshare --mount --pid --fork --kill-child --propagation private bash -euc '
    system=$1
    data=$2
    shift 2
    mount -t proc proc "$system/proc"
    mount --rbind /sys "$system/sys"
    mount --rbind /dev "$system/dev"
    mount -t tmpfs tmpfs "$system/dev/shm"
    if [ -n "$data" ]; then
        mount --bind -o ro "$data" "$system/dtrain-data"
        data=/dtrain-data
    fi
    exec chroot "$system" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        ${data:+DTRAIN_DATA="$data"} sh -c "cd /dtrain && exec \"\$@\"" sh "$@"
' rootfs "$system" "${DTRAIN_DATA:+$(realpath "$DTRAIN_DATA")}" "$@" </dev/null
