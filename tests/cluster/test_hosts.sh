#!/bin/sh
# test_hosts.sh DTRAIN: tests/cluster/hosts.sh makes hosts that MPI takes for several, whose links
# carry what they should and no more, and removes them. Skipped where there can be no such hosts.
set -eu
dtrain=$1
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
folder=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
mine=
trap '[ -z "$mine" ] || bash "$folder/hosts.sh" down; rm -rf "$work"' EXIT
cd "$work"

# hosts ARGUMENT...: hosts.sh; output in $out, errors in $err, status in $status
hosts()
{
    last="hosts.sh $*"
    status=0
    timeout 120 bash "$folder/hosts.sh" "$@" </dev/null >"$out" 2>"$err" || status=$?
}
prints()
{
    [ "$(sort "$out")" = "$(printf '%s\n' "$@")" ]
}
less() # NUMBER LIMIT
{
    echo "$1 $2" | awk '{ exit !(NF == 2 && $1 < $2) }'
}
namespaces()
{
    ip netns list | grep '^dtr-'
}

# Only hosts that this test made are this test's to remove: not those that were there already (1).
mine=yes
hosts up 4 200mbit
case $status in
1) mine= ;;
69)
    mine=
    cat "$err"
    exit 77
    ;;
esac
check 'there are 4 hosts' [ "$status" -eq 0 ]
[ "$status" -eq 0 ] || finish
hosts up 2
expect_failure 1 'hosts.sh down'

# A command on a host.
name=$(uname -n)
hosts run h2 sh -c 'uname -n; pwd; exit 7'
check 'the status is that of the command' [ "$status" -eq 7 ]
check 'the name is its own, the folder is this one' prints "$work" h2
check 'this machine keeps its name' [ "$(uname -n)" = "$name" ]
hosts run h4 true
expect_failure 2 'no host h4'

# MPI.
# shellcheck disable=SC2016 # for that shell
hosts mpirun 2 sh -c 'echo $(uname -n) $(pwd)'
check 'two ranks on each host, in this folder' prints "h0 $work" "h0 $work" "h1 $work" "h1 $work" \
    "h2 $work" "h2 $work" "h3 $work" "h3 $work"
hosts mpirun 1 --bind-to none "$dtrain" --data synthetic:2000 --validation-size 200 --steps 5 \
    --threads 1 --checkpoint-dir none
check 'trains' [ "$status" -eq 0 ]
check 'on 4 hosts' grep -q '^dtrain .* on 4 ranks .*, 4 hosts (rank 0 on h0)' "$out"
check 'to the end' grep -q '^Weights: ' "$out"

# What the links carry. A server sends or takes this much:
cat >transfer.py <<'PYTHON'
import socket, sys, threading, time

SIZE = 3 << 20
PORT = 7000

def send(connection):
    connection.sendall(bytes(SIZE))
    connection.shutdown(socket.SHUT_WR)

def receive(connection):
    while connection.recv(1 << 20):
        pass

def serve():
    server = socket.create_server(('', PORT))
    while True:
        connection, _ = server.accept()
        what = send if connection.recv(1) == b'<' else receive
        threading.Thread(target=lambda c, f: (f(c), c.close()), args=(connection, what)).start()

def connect(host):
    for _ in range(100):
        try:
            return socket.create_connection((host, PORT))
        except OSError:
            time.sleep(0.1)
    sys.exit('nobody listens on ' + host)

def exchange(connection, direction):
    connection.sendall(direction)
    if direction == b'>':
        send(connection)
    receive(connection)

# '<h1' is to get it from h1, '>h1' to send it there, all at once; prints Mbit/s.
def measure(transfers):
    threads = [threading.Thread(target=exchange, args=(connect(t[1:]), t[:1].encode()))
               for t in transfers]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print('%.1f' % (len(transfers) * SIZE * 8e-6 / (time.monotonic() - start)))

measure(sys.argv[1:]) if sys.argv[1:] else serve()
PYTHON
for host in h0 h1 h2; do
    bash "$folder/hosts.sh" run $host python3 transfer.py </dev/null >server.$host 2>&1 &
done
rate() # TRANSFER...: from or to h0
{
    hosts run h0 python3 transfer.py "$@"
    check "$*: done" [ "$status" -eq 0 ]
    echo "$last: $(cat "$out") Mbit/s"
}
# Loopback has no limit. A busy machine is slower everywhere, so the lower bound is far away.
rate '>h0'
check 'the test itself is faster than a link' less 400 "$(cat "$out")"
for transfers in '>h1' '<h1' '>h1 >h2' '<h1 <h2'; do
    # shellcheck disable=SC2086 # a list
    rate $transfers
    check "$transfers: at most 200 Mbit/s" less "$(cat "$out")" 230
    check "$transfers: not much less" less 40 "$(cat "$out")"
done

# The servers still run.
hosts down
check 'ends well' [ "$status" -eq 0 ]
wait
check 'no namespace is left' [ -z "$(namespaces)" ]
check 'no device is left' [ -z "$(ip -o link | grep -w 'dtr-[a-z0-9]*')" ]
check 'no file is left' [ ! -e "${TMPDIR:-/tmp}/dtrain-hosts" ]
hosts down
check 'may be called again' [ "$status" -eq 0 ]
mine=
hosts run h0 true
expect_failure 2 'no host h0'
finish
