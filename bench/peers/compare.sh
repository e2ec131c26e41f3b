#!/bin/sh
# compare.sh: a training step of dtrain beside PyTorch's and TensorFlow's, on the same cores, with
# the same network, batch and data, in turns.
#
#   sh bench/peers/compare.sh [OPTION VALUE]...
#
#   --batch N       samples of a step; 64
#   --model FILE    a model file; mnist-cnn
#   --data DIR      a folder with IDX files, or synthetic; MNIST if it is found and fits the model
#   --steps N       steps of a run; as many as take dtrain 3 s
#   --repeats N     runs of each row; 9
#   --cores N       at most as many as there are; 2
#   --isa avx2      all programs keep to AVX2; the widest vectors that each can use
#   --peers LIST    torch torch-compiled torch-ddp keras; there is also torch-ddp-compiled
#
# Interpreters: $DTRAIN_TORCH_PYTHON and $DTRAIN_KERAS_PYTHON, which must have PyTorch, and Keras 3
# with TensorFlow; else $DTRAIN_PEERS_PYTHON, build/peers/torch, build/peers/keras or python3,
# whichever has them (PyTorch 2); else pip installs them in build/peers/, gigabytes, and if it
# cannot, Debian's PyTorch is taken.
#
# Every program may use exactly the same cores. The peers' first 20 steps are not timed, dtrain's
# are. Builds build/release. Prints tables: medians, and ratios within a repeat, with the lowest and
# the highest. What was run, and what it printed, is in build/peers/compare.log.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=jobs/lib/common.sh
. "$root/jobs/lib/common.sh"
# shellcheck source=jobs/lib/packages.sh
. "$root/jobs/lib/packages.sh"

batch=64 model=mnist-cnn data='' steps='' repeats=9 used=2 isa=auto
peers='torch torch-compiled torch-ddp keras'
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,/^[^#]/s/^#\{1,\} \{0,1\}//p' "$0"
        exit 0
        ;;
    --*=*) option=${1%%=*} value=${1#*=} ;;
    *)
        [ $# -gt 1 ] || die 2 "$1 is no option or lacks a value; see --help"
        option=$1 value=$2
        shift
        ;;
    esac
    shift
    case $option in
    --batch | --steps | --repeats | --cores)
        case $value in
        '' | *[!0-9]* | 0*) die 2 "$option is '$value', must be a whole number from 1" ;;
        esac
        ;;
    esac
    case $option in
    --batch) batch=$value ;;
    --model) model=$value ;;
    --data) data=$value ;;
    --steps) steps=$value ;;
    --repeats) repeats=$value ;;
    --cores) used=$value ;;
    --isa) isa=$value ;;
    --peers) peers=$value ;;
    *) die 2 "unknown option $option; see --help" ;;
    esac
done
for peer in $peers; do
    case $peer in
    torch | torch-compiled | torch-ddp | torch-ddp-compiled | keras) ;;
    *) die 2 "unknown peer '$peer'; see --help" ;;
    esac
done
case $isa in
auto) ;;
# PyTorch, oneDNN (its name until 2020, too), MKL
avx2) export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 \
    MKL_ENABLE_INSTRUCTIONS=AVX2 ;;
*) die 2 "--isa is '$isa', must be avx2" ;;
esac
[ "$used" -le "$(cores)" ] || used=$(cores)
[ $((batch % 8 + batch % used)) -eq 0 ] ||
    die 2 "--batch must be a multiple of 8, dtrain's shards, and of the $used cores"
packages_has_command taskset || die 69 "taskset (util-linux) is needed to give all the same cores"

# Threads that wait for others by spinning, as PyTorch's do, suffer most from other work.
load=$(cut -d ' ' -f 1 /proc/loadavg 2>/dev/null || echo unknown)
case $load in
0.* | unknown) ;;
*) say "the load is $load: while other programs run, the figures mean little" ;;
esac

here=$root/bench/peers
folder=$root/build/peers
log=$folder/compare.log
mkdir -p "$folder" || die 74 "cannot write to $root; copy the checkout to a folder of yours"
: >"$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# The first N of the cores that this process may use, for taskset.
first_cores() # N
{
    taskset -cp $$ | sed 's/.*: *//' | tr ',' '\n' | awk -F- -v wanted="$1" '{
        for (i = $1; i <= (NF > 1 ? $2 : $1) && n < wanted; i++)
            printf "%s%d", n++ ? "," : "", i }'
}

## Interpreters

wants() # PATTERN
{
    for wanted in $peers; do
        # shellcheck disable=SC2254 # a pattern
        case $wanted in
        $1) return 0 ;;
        esac
    done
    return 1
}

has_imports() # PYTHON, imports on standard input
{
    "$1" - >/dev/null 2>&1
}
has_torch() # PYTHON OLDEST
{
    echo "import numpy, torch; assert int(torch.__version__.split('.')[0]) >= $2" | has_imports "$1"
}
has_keras() # PYTHON
{
    echo "import numpy, tensorflow, keras; assert int(keras.__version__.split('.')[0]) >= 3" |
        has_imports "$1"
}

install_peer() # NAME PIP-PACKAGE...
{
    name=$1
    shift
    packages_ensure "to install $name" "$folder/packages.log" venv || return 1
    say "installing $* in build/peers/$name (log: build/peers/$name.log)"
    if ! { python3 -m venv "$folder/$name" &&
        "$folder/$name/bin/python" -m pip install "$@"; } >"$folder/$name.log" 2>&1; then
        say "pip could not install them: $(tail -n 1 "$folder/$name.log")"
        return 1
    fi
}

# Set torch_python and keras_python, empty if there is none.
find_torch()
{
    torch_python=${DTRAIN_TORCH_PYTHON:-}
    if [ -n "$torch_python" ]; then
        has_torch "$torch_python" 1 || die 69 "DTRAIN_TORCH_PYTHON=$torch_python has no PyTorch"
        return 0
    fi
    for torch_python in "${DTRAIN_PEERS_PYTHON:-python3}" "$folder/torch/bin/python" python3; do
        ! has_torch "$torch_python" 2 || return 0
    done
    torch_python=$folder/torch/bin/python
    ! install_peer torch torch numpy || ! has_torch "$torch_python" 2 || return 0
    torch_python=/usr/bin/python3
    packages_ensure 'to compare with PyTorch' "$folder/packages.log" torch || torch_python=
}
find_keras()
{
    keras_python=${DTRAIN_KERAS_PYTHON:-}
    if [ -n "$keras_python" ]; then
        has_keras "$keras_python" ||
            die 69 "DTRAIN_KERAS_PYTHON=$keras_python has no Keras 3 with TensorFlow"
        return 0
    fi
    for keras_python in "${DTRAIN_PEERS_PYTHON:-python3}" "$folder/keras/bin/python" python3; do
        ! has_keras "$keras_python" || return 0
    done
    keras_python=$folder/keras/bin/python
    ! install_peer keras tensorflow-cpu numpy || ! has_keras "$keras_python" || return 0
    keras_python=
}

torch_python='' keras_python=''
! wants 'torch*' || find_torch
! wants keras || find_keras
numpy_python=${torch_python:-$keras_python}
[ -n "$numpy_python" ] || die 69 "there is no peer to compare with"
# Without these its row says "not available".
! wants '*-compiled' ||
    packages_ensure 'for torch.compile' "$folder/packages.log" c++ python-headers || true

## The rest of the set-up

# shellcheck disable=SC2086 # a list
packages_ensure 'to build dtrain' "$folder/packages.log" $PACKAGES_BUILD || exit
build release dtrain --buildtype=release || die 1 "the build failed (log: build/release.log)"
dtrain=$root/build/release/dtrain
mpi_environment
export TORCHINDUCTOR_CACHE_DIR="$folder/inductor"

input='28 28 1'
if [ "$model" != mnist-cnn ]; then
    [ -r "$model" ] || die 65 "cannot read the model file $model"
    input=$(awk '$1 == "input" { print $2, $3, $4 }' "$model")
fi
if [ -z "$data" ]; then
    find_data
    [ "$input" != '28 28 1' ] || data=${DTRAIN_DATA:-}
fi
data=${data:-synthetic}
data_name=${data##*/}
case $data in
synthetic*) # the same files for all
    data_name='synthetic'
    data=$scratch/data
    mkdir "$data"
    # At most 256 MB, and a few batches.
    count=$(echo "$input" | awk -v batch="$batch" '{
        n = int(2.56e8 / ($1 * $2 * $3)); n = n > 8192 ? 8192 : n
        print (n < 4 * batch ? 4 * batch : n) }')
    "$numpy_python" "$here/workload.py" "$model" "$data" "$count" || die 65 "no data for $model"
    ;;
*) [ -d "$data" ] || die 65 "$data is no folder" ;;
esac

## Runs

# From "Trained N steps in S s: X images/s, Y ms/step". X and Y are rounded: take the finer one.
dtrain_ms()
{
    sed -n 's|^Trained .*: \([0-9]*\) images/s, \([0-9.]*\) ms/step$|\1 \2|p' |
        awk -v batch="$batch" '{ print ($2 > 0.1 * $1 ? $2 : 1000 * batch / $1) }'
}

run_dtrain() # CORES RANKS THREADS
{
    taskset -c "$(first_cores "$1")" mpirun --bind-to none -n "$2" "$dtrain" --threads "$3" \
        --model "$model" --data "$data" --batch-size "$batch" --steps "$run_steps" --isa "$isa" \
        --eval-every 1000000000 --validation-size 0 --checkpoint-dir none
}

run_peer() # CORES THREADS PYTHON SCRIPT OPTION...
{
    run_cores=$1 run_threads=$2 run_python=$3 run_script=$here/$4
    shift 4
    taskset -c "$(first_cores "$run_cores")" "$run_python" "$run_script" --threads "$run_threads" \
        --model "$model" --data "$data" --batch "$batch" --steps "$run_steps" --warmup 20 "$@"
}

run_row() # KIND CORES
{
    case $1 in
    dtrain-threads) run_dtrain "$2" 1 "$2" ;;
    dtrain-ranks) run_dtrain "$2" "$2" 1 ;;
    torch) run_peer "$2" "$2" "$torch_python" torch_step.py ;;
    torch-compiled) run_peer "$2" "$2" "$torch_python" torch_step.py --compile ;;
    torch-ddp) run_peer "$2" 1 "$torch_python" torch_step.py --ddp "$2" ;;
    torch-ddp-compiled) run_peer "$2" 1 "$torch_python" torch_step.py --ddp "$2" --compile ;;
    keras) run_peer "$2" "$2" "$keras_python" keras_step.py ;;
    esac </dev/null >"$scratch/out" 2>"$scratch/err"
}

# Prints milliseconds a step; if that fails, says why.
measure() # KIND CORES STEPS
{
    run_steps=$3
    echo "== $*" >>"$log"
    status=0
    run_row "$1" "$2" || status=$?
    cat "$scratch/err" "$scratch/out" >>"$log"
    case $1 in
    dtrain-*) ms=$(dtrain_ms <"$scratch/out") ;;
    *) ms=$(sed -n 's|^.*: \([0-9.]*\) ms/step.*|\1|p' "$scratch/out") ;;
    esac
    if [ "$status" -ne 0 ] || [ -z "$ms" ]; then
        reason=$(awk '/[Ee]rror/ { error = $0 } NF { last = $0 }
            END { print (error != "" ? error : last) }' "$scratch/err")
        say "$1, cores: $2, status $status: $reason"
        return 1
    fi
    echo "$ms"
}

# KIND:CORES; DDP and several ranks make no sense on one core.
rows=
[ "$used" -eq 1 ] || rows="dtrain-threads:$used dtrain-ranks:$used"
for peer in $peers; do
    [ "$used" -eq 1 ] || rows="$rows $peer:$used"
done
rows="$rows dtrain-threads:1"
for peer in $peers; do
    case $peer in
    *-ddp*) ;;
    *) rows="$rows $peer:1" ;;
    esac
done

say "trying every row once (log: build/peers/compare.log)"
alive=
for row in $rows; do
    case $row in
    dtrain-*) python=none ;;
    torch*) python=$torch_python ;;
    keras*) python=$keras_python ;;
    esac
    if [ -n "$python" ] && measure "${row%:*}" "${row#*:}" 20 >"$scratch/ms"; then
        alive="$alive $row"
        [ "$row" != "dtrain-threads:$used" ] || first_ms=$(cat "$scratch/ms")
    elif [ "$python" = none ]; then
        die 1 "dtrain failed (log: build/peers/compare.log)"
    fi
done
if [ -z "$steps" ]; then
    steps=$(awk -v ms="$first_ms" 'BEGIN {
        n = int(3000 / ms); print (n < 20 ? 20 : n > 5000 ? 5000 : n) }')
fi

# Each repeat begins with another row.
repeat=1
while [ "$repeat" -le "$repeats" ]; do
    say "repeat $repeat of $repeats, $steps steps"
    for row in $alive; do
        if ms=$(measure "${row%:*}" "${row#*:}" "$steps"); then
            echo "$repeat $row $ms" >>"$scratch/results"
        fi
    done
    # shellcheck disable=SC2086 # a list
    set -- $alive
    first=$1
    shift
    alive="$* $first"
    repeat=$((repeat + 1))
done

## Tables

version_of() # PYTHON MODULE
{
    [ -z "$1" ] || "$1" -c "import $2; print('$2', $2.__version__)" 2>/dev/null
}

echo "$(date '+%-d %B %Y'), $used of $(cores) cores of" \
    "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1), load before: $load."
commit=$(git -C "$root" describe --always --dirty 2>/dev/null || true)
echo "$("$dtrain" --version)${commit:+ ($commit)};" "$(mpirun --version | head -n 1);" \
    "$({ version_of "$torch_python" torch; version_of "$keras_python" tensorflow
        version_of "$keras_python" keras; } | paste -sd, | sed 's/,/, /g')."
echo "Model ${model##*/}, data $data_name, batch $batch, vectors: $isa;" \
    "repeats: $repeats, steps of a run: $steps."
echo
awk -v rows="$rows" -v repeats="$repeats" '
    function median(values, count,  i, j, t) {
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && values[j - 1] > values[j]; j--) {
                t = values[j]; values[j] = values[j - 1]; values[j - 1] = t
            }
        return (values[int((count + 1) / 2)] + values[int(count / 2) + 1]) / 2
    }
    # The median of a row; the values end up sorted in v[1 .. runs].
    function summary(row,  r) {
        runs = 0
        for (r = 1; r <= repeats; r++)
            if ((r, row) in ms)
                v[++runs] = ms[r, row]
        return runs ? median(v, runs) : -1
    }
    # How many times as long as the other a row takes, by repeats in which both ran.
    function ratio(row, other,  r, middle) {
        runs = 0
        for (r = 1; r <= repeats; r++)
            if ((r, row) in ms && (r, other) in ms)
                v[++runs] = ms[r, row] / ms[r, other]
        if (!runs)
            return ""
        middle = median(v, runs)
        return sprintf("%.2f [%.2f..%.2f]", middle, v[1], v[runs])
    }
    # The row with the lowest median among those that begin like this.
    function fastest(start, cores,  i, best) {
        for (i = 1; i <= n; i++)
            if (index(row[i], start) == 1 && cores_of[i] == cores && middle[row[i]] > 0 &&
                (best == "" || middle[row[i]] < middle[best]))
                best = row[i]
        return best
    }
    function plural(count, word, more) { return count " " (count == 1 ? word : more) }
    function name(row,  part, c) {
        split(row, part, ":")
        c = part[2]
        if (part[1] == "dtrain-ranks")
            return "dtrain, " plural(c, "rank", "ranks") " x 1 thread"
        if (part[1] == "dtrain-threads")
            return "dtrain, 1 rank x " plural(c, "thread", "threads")
        if (part[1] ~ /ddp/)
            return "PyTorch DDP" (part[1] ~ /compiled/ ? ", compiled, " : ", ") \
                plural(c, "process", "processes") " x 1 thread"
        if (part[1] == "keras")
            return "TensorFlow/Keras, " plural(c, "thread", "threads")
        return "PyTorch, " (part[1] ~ /compiled/ ? "compiled, " : "eager, ") \
            plural(c, "thread", "threads")
    }
    function against(row, peer) {
        if (peer != "")
            printf "| %s | %s | %s |\n", name(row), name(peer), ratio(peer, row)
    }
    { ms[$1, $2] = $3 }
    END {
        n = split(rows, row, " ")
        for (i = 1; i <= n; i++) {
            split(row[i], part, ":")
            cores_of[i] = part[2]
            middle[row[i]] = summary(row[i])
        }
        print "| cores | program | ms/step, median | min | max | of the fastest dtrain'"'"'s |"
        print "| --- | --- | --- | --- | --- | --- |"
        for (i = 1; i <= n; i++) {
            summary(row[i])
            if (runs) {
                low = v[1]; high = v[runs]
                printf "| %d | %s | %.2f | %.2f | %.2f | %s |\n", cores_of[i], name(row[i]),
                    middle[row[i]], low, high, ratio(row[i], fastest("dtrain", cores_of[i]))
            } else
                printf "| %d | %s | not available | | | |\n", cores_of[i], name(row[i])
        }
        print "\n| dtrain | the peer'"'"'s fastest form | peer'"'"'s time / dtrain'"'"'s |"
        print "| --- | --- | --- |"
        for (i = 1; i <= n; i++)
            if (row[i] ~ /^dtrain/) {
                against(row[i], fastest("torch", cores_of[i]))
                against(row[i], fastest("keras", cores_of[i]))
            }
    }' "$scratch/results"
