#!/bin/sh
# fetch-mnist.sh: downloads MNIST and checks it.
#
#   sh jobs/fetch-mnist.sh [FOLDER]            FOLDER is data/mnist by default
#   sh jobs/fetch-mnist.sh --check [FOLDER]    only checks what is there
#
# Good files are left alone, an interrupted download is resumed, and a file gets its name only when
# its checksum is right; any number of these may run at once. $DTRAIN_MNIST_MIRRORS, a list of web
# addresses of folders, replaces the built-in mirrors.
# Exit status: 0 all four files are good; 2 usage; 65 (--check) a file is missing or damaged;
# 69 no download tool, or no mirror had a good copy; 74 the folder cannot be written.
set -eu

# The checksums are those of the decompressed files: mirrors may compress differently.
files='train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'
checksum()
{
    case $1 in
    train-images-*) echo 6bbc9ace898e44ae57da46a324031adb ;;
    train-labels-*) echo a25bea736e30d166cdddb491f175f624 ;;
    t10k-images-*) echo 2646ac647ad5339dbf082846283269ea ;;
    t10k-labels-*) echo 27ae3e4e09519cfbb04c329615203637 ;;
    esac
}

mirrors='https://storage.googleapis.com/cvdf-datasets/mnist
https://ossci-datasets.s3.amazonaws.com/mnist'
mirrors=${DTRAIN_MNIST_MIRRORS:-$mirrors}

say()
{
    printf 'fetch-mnist: %s\n' "$*" >&2
}

die()
{
    status=$1
    shift
    say "$@"
    exit "$status"
}

has()
{
    command -v "$1" >/dev/null 2>&1
}

md5()
{
    if has md5sum; then
        md5sum | cut -d ' ' -f 1
    else
        openssl md5 -r | cut -d ' ' -f 1
    fi
}

# good NAME PATH: PATH is a compressed NAME with nothing missing, changed or added. What gzip
# complains about must not have the right checksum.
good()
{
    [ -f "$2" ] &&
        [ "$({ gzip -dc <"$2" 2>/dev/null || echo bad; } | md5)" = "$(checksum "$1")" ]
}

size()
{
    if [ -f "$1" ]; then wc -c <"$1"; else echo 0; fi
}

# download URL PATH: appends to PATH what it does not hold yet. A connection that stands still for
# 30 s is given up. The tool inherits the lock, so that it keeps other runs away even if this script
# is killed before it.
download()
{
    status=0
    if has curl; then
        write_error=23
        curl -fsSL --connect-timeout 20 --speed-limit 1 --speed-time 30 -C - -o "$2" "$1" ||
            status=$?
    else
        write_error=3
        wget -q -c -t 2 -T 30 -O "$2" "$1" || status=$?
    fi
    [ $status -ne $write_error ] || die 74 "cannot write $2 (disk or quota full?)"
    return $status
}

# download_all URL PATH: goes on downloading as long as every attempt adds something.
download_all()
{
    while :; do
        before=$(size "$2")
        if download "$1" "$2"; then return 0; fi
        if [ "$(size "$2")" -le "$before" ]; then return 1; fi
    done
}

# fetch_from MIRROR NAME PARTIAL: goes on with PARTIAL if there is one. Should that not work, the
# beginning may be from another mirror, or this mirror cannot resume: then once more from the start,
# into another file, so that a mirror that is down does not cost what an earlier one brought.
fetch_from()
{
    url=$1/$2.gz
    target=$3
    if [ -s "$3" ]; then
        if download_all "$url" "$3"; then
            if good "$2" "$3"; then return 0; fi
            rm -f "$3"
        else
            target=$3.new
            rm -f "$target"
        fi
    fi
    if download_all "$url" "$target"; then
        if good "$2" "$target"; then
            [ "$target" = "$3" ] || mv -f "$target" "$3"
            return 0
        fi
        rm -f "$target"
        say "$url is not the file that it should be"
    else
        if [ "$(size "$target")" -gt "$(size "$3")" ]; then mv -f "$target" "$3"; fi
        say "could not get $url"
    fi
    return 1
}

# fetch NAME: tries the mirrors in turn.
fetch()
{
    partial=$folder/$1.gz.$suffix
    say "fetching $1.gz"
    for mirror in $mirrors; do
        if good "$1" "$partial" || fetch_from "${mirror%/}" "$1" "$partial"; then
            mv -f "$partial" "$folder/$1.gz" || die 74 "cannot write $folder/$1.gz"
            rm -f "$partial.new"
            return
        fi
    done
    die 69 "no mirror had a good $1.gz; is this machine connected to the internet?" \
        "(on a cluster, run this on a login node)"
}

remove_own_partials()
{
    rm -f "$folder"/*.gz.part.$$ "$folder"/*.gz.part.$$.new
}

# Only one of several at work downloads; the others wait for it. The partial file then has a name
# that the next run finds. Where there is no locking each has a partial file of its own, which is
# wasteful but does no harm.
take_turn()
{
    mkdir -p "$folder" 2>/dev/null || die 74 "cannot make the folder $folder"
    lock=$folder/.fetch-mnist.lock
    (: >>"$lock") 2>/dev/null || die 74 "cannot write to $folder"
    exec 9>>"$lock"
    if has flock && flock -w 3600 9; then
        suffix=part
    else
        suffix=part.$$
        trap remove_own_partials EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
    fi
}

check_only=no
case ${1:-} in
-h | --help)
    sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
    exit 0
    ;;
--check)
    check_only=yes
    shift
    ;;
-*) die 2 "unknown option $1 (see --help)" ;;
esac
[ $# -le 1 ] || die 2 "one folder, please (see --help)"
folder=${1:-data/mnist}

has md5sum || has openssl || die 69 "needs md5sum or openssl to check the files"
has gzip || die 69 "needs gzip to check the files"

if [ "$check_only" = yes ]; then
    status=0
    for name in $files; do
        if good "$name" "$folder/$name.gz"; then continue; fi
        status=65
        if [ -e "$folder/$name.gz" ]; then
            say "$folder/$name.gz is damaged"
        else
            say "$folder/$name.gz is missing"
        fi
    done
    [ $status -ne 0 ] || say "all four files in $folder are good"
    exit $status
fi

wanted=
for name in $files; do
    good "$name" "$folder/$name.gz" || wanted="$wanted $name"
done
if [ -n "$wanted" ]; then
    has curl || has wget || die 69 "needs curl or wget to download"
    take_turn
    for name in $wanted; do
        # Another run may have brought it meanwhile.
        good "$name" "$folder/$name.gz" || fetch "$name"
    done
    rm -f "$lock"
fi
say "all four files in $folder are good; train on them with: dtrain --data $folder"
