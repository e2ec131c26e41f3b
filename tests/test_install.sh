#!/bin/sh
# test_install.sh BUILD LIBDIR: what `meson install` puts into a folder works there, and wherever the folder
# is moved: the program needs nothing of the build, and finds its plugin from where it is itself.
set -eu
build=$1
libdir=$2
dtrain=$build/dtrain
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

last='meson install' status=0
DESTDIR=$work/stage meson install -C "$build" --no-rebuild </dev/null >"$out" 2>"$err" || status=$?
check 'meson install works' [ "$status" -eq 0 ]
mv "$work/stage" "$work/moved"
dtrain=$(find "$work/moved" -path '*/bin/dtrain')
check 'installs the program' [ -x "$dtrain" ]
check 'and, but for the plugin, nothing else' [ -z "$(find "$work/moved" -type f \
    ! -path '*/bin/dtrain' ! -path '*/lib*/dtrain/libdtrain_cuda.so')" ]

tiny='--data synthetic:200 --validation-size 20 --epochs 1 --checkpoint-dir none'
# shellcheck disable=SC2086 # a list
job 1 $tiny
check 'trains' grep -q '^Weights: ' "$out"

# A plugin that is none: the message says which file was tried.
plugin=${dtrain%/bin/dtrain}/$libdir/dtrain/libdtrain_cuda.so
mkdir -p "${plugin%/*}"
echo 'no library' >"$plugin"
# shellcheck disable=SC2086
job 1 $tiny --backend cuda
expect_failure 69 "bin/../$libdir/dtrain/libdtrain_cuda.so: "
rm "$plugin"
# shellcheck disable=SC2086
job 1 $tiny --backend cuda
expect_failure 69 'has no GPU plugin'
finish
