#!/bin/sh
# test_fetch_mnist.sh: jobs/fetch-mnist.sh against mirrors on this machine that are good, cut
# connections, cannot resume, or serve something else. Needs the four .gz files of MNIST in
# $DTRAIN_DATA, python3 and curl or wget; skipped (77) without them.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
script=$root/jobs/fetch-mnist.sh
images=train-images-idx3-ubyte.gz

skip()
{
    echo "skipped: $*"
    exit 77
}

[ -n "${DTRAIN_DATA:-}" ] || skip "DTRAIN_DATA names no folder with MNIST"
sh "$script" --check "$DTRAIN_DATA" 2>/dev/null || skip "no MNIST in $DTRAIN_DATA"
python3 -c 'import http.server' 2>/dev/null || skip "no python3"

work=$(mktemp -d)
server=
clean_up()
{
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

python3 "$root/tests/mnist_mirrors.py" "$DTRAIN_DATA" "$work/requests" >"$work/port" &
server=$!
waited=0
until [ -s "$work/port" ]; do
    [ $waited -lt 100 ] || {
        echo "the server did not start"
        exit 1
    }
    waited=$((waited + 1))
    sleep 0.1
done
http=http://127.0.0.1:$(cat "$work/port")
export no_proxy=127.0.0.1

# only TOOL...: a folder with what the script needs and these tools, to be its PATH.
only()
{
    tools=$(mktemp -d "$work/tools.XXXXXX")
    for tool in sh gzip md5sum cut wc rm mv mkdir cat "$@"; do
        ! path=$(command -v "$tool") || ln -s "$path" "$tools/$tool"
    done
}

failures=0

# expect TEXT COMMAND...: COMMAND must succeed.
expect()
{
    text=$1
    shift
    if ! "$@"; then
        echo "FAILED ($case_name): $text"
        sed 's/^/    /' "$work/output"
        failures=$((failures + 1))
    fi
}

# begin NAME: an empty folder and an empty list of requests.
begin()
{
    case_name=$1
    folder=$work/data
    rm -rf "$folder"
    : >"$work/requests"
}

# run MIRRORS: with the tools that only() chose.
run()
{
    env PATH="$tools" DTRAIN_MNIST_MIRRORS="$1" sh "$script" "$folder"
}

# fetch STATUS MIRROR...: runs the script and expects its exit status.
fetch()
{
    wanted=$1
    shift
    run "$*" >"$work/output" 2>&1 && status=0 || status=$?
    expect "exit status $status, not $wanted" [ "$status" -eq "$wanted" ]
}

same()
{
    for file in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
        cmp -s "$DTRAIN_DATA/$file-ubyte.gz" "$folder/$file-ubyte.gz" || return 1
    done
}

# Exactly the four files: no partial file, no lock.
tidy()
{
    [ "$(find "$folder" -type f | wc -l)" -eq 4 ]
}

requests()
{
    grep -c "$1" "$work/requests" || true
}

all_good()
{
    expect "the files are not MNIST's" same
    expect "something is left over" tidy
}

half()
{
    mkdir -p "$folder"
    head -c 5000000 "$DTRAIN_DATA/$images" >"$folder/$images.part"
}

# test_mirrors TOOL: TOOL downloads.
test_mirrors()
{
    begin "fresh folder, $1"
    fetch 0 "$http/good/"
    all_good
    expect "one request a file" [ "$(requests .)" -eq 4 ]
    fetch 0 "$http/missing"
    expect "good files are left alone" [ "$(requests .)" -eq 4 ]

    begin "damaged file, $1"
    fetch 0 "$http/good"
    : >"$work/requests"
    head -c 1000 "$DTRAIN_DATA/$images" >"$folder/$images"
    sh "$script" --check "$folder" 2>"$work/output" && status=0 || status=$?
    expect "--check finds it" [ "$status" -eq 65 ]
    fetch 0 "$http/good"
    all_good
    expect "only that file is fetched" [ "$(requests .)" -eq 1 ]
    echo junk >>"$folder/$images"
    sh "$script" --check "$folder" 2>"$work/output" && status=0 || status=$?
    expect "--check finds what was added" [ "$status" -eq 65 ]

    begin "resume, $1"
    half
    fetch 0 "$http/good"
    all_good
    expect "it asks for the rest only" [ "$(requests "$images bytes=5000000-")" -eq 1 ]
    expect "and for nothing else of it" [ "$(requests "$images")" -eq 1 ]

    begin "connection cut, $1"
    fetch 0 "$http/cut"
    all_good
    expect "it resumes" [ "$(requests "$images bytes=")" -ge 2 ]

    begin "no resuming there, $1"
    half
    fetch 0 "$http/norange"
    all_good

    begin "partial file of something else, $1"
    half
    head -c 20000000 /dev/zero >"$folder/$images.part"
    fetch 0 "$http/good"
    all_good

    begin "bad mirrors before a good one, $1"
    half
    fetch 0 http://127.0.0.1:9 "$http/missing" "$http/page" "$http/corrupt" "$http/good"
    all_good

    begin "mirror down, $1"
    half
    fetch 69 http://127.0.0.1:9
    expect "the partial file is kept" [ "$(wc -c <"$folder/$images.part")" -eq 5000000 ]
    expect "no damaged file gets the name" [ ! -e "$folder/$images" ]
    fetch 0 "$http/good"
    all_good

    begin "only bad mirrors, $1"
    fetch 69 "$http/corrupt" "$http/page"
    expect "no damaged file gets the name" [ ! -e "$folder/$images" ]

    begin "two at once, $1"
    run "$http/slow" 2>/dev/null &
    fetch 0 "$http/slow"
    expect "the other one succeeds too" wait $!
    all_good
    expect "only one of them downloads" [ "$(requests .)" -eq 4 ]

    begin "interrupted, $1"
    run "$http/slow" 2>/dev/null &
    sleep 1
    kill $!
    wait $! || true
    expect "a part is there" [ -s "$folder/$images.part" ]
    fetch 0 "$http/good"
    all_good
}

downloaders=
for downloader in curl wget; do
    command -v "$downloader" >/dev/null || continue
    downloaders="$downloaders $downloader"
    only "$downloader" flock
    test_mirrors "$downloader"
done
[ -n "$downloaders" ] || skip "no curl and no wget"

begin "no locking"
# shellcheck disable=SC2086 # a list
only $downloaders
run "$http/slow" 2>/dev/null &
fetch 0 "$http/slow"
expect "the other one succeeds too" wait $!
all_good

begin "no download tool"
only flock
fetch 69 "$http/good"
expect "it names the tools" grep -q 'needs curl or wget' "$work/output"

# shellcheck disable=SC2086 # a list
only $downloaders flock
begin "folder that cannot be made"
: >"$work/file"
folder=$work/file/data
fetch 74 "$http/good"

begin "read-only folder"
folder=/proc/self
fetch 74 "$http/good"

begin "full disk"
folder=$work/full
mkdir "$folder"
ln -s /dev/full "$folder/$images.part"
fetch 74 "$http/good"

begin "usage"
sh "$script" --nonsense 2>"$work/output" && status=0 || status=$?
expect "an unknown option is exit 2" [ "$status" -eq 2 ]

[ $failures -eq 0 ] || exit 1
echo "all passed"
