#!/usr/bin/env bash
# All that only a GPU can tell, by one command, in at most seven minutes: the tests on hardware, the
# table of tiles, convolutions against cuDNN, training steps against PyTorch, the depth study, a
# profile. In order of worth; each result is written as soon as it is there, so that a run cut short
# loses only what it had not begun. All kernels are compiled first, on all cores: one by one, where
# they are first launched, that would take longer than everything else.
#
#   bash benchmarks/gpu_check.sh [FOLDER]     results go there  [gpu-check]
#   LIMIT=240 bash benchmarks/gpu_check.sh    seconds in all    [420]
#
# Needs no network and no installation: Python with NumPy, Numba, CuPy, pytest, and PyTorch with CUDA
# for the other side. Leaves parts.csv (what ran, and how it ended), tests.xml (JUnit), CSV files of
# the benchmarks, a log of each part, and profile.txt.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu-check}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
limit=${LIMIT:-420}
failed=0
echo "part,seconds,status" > "$out/parts.csv"

# part NAME MOST COMMAND...: run it for at most MOST seconds, and not beyond the limit of all
part() {
    local name=$1 most=$2 left=$((limit - SECONDS)) start=$SECONDS status
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "$name,0,no time" >> "$out/parts.csv"
        failed=1
        return
    fi
    echo "== $name"
    # SIGINT, not SIGTERM: pytest then writes its XML, and Python its last line
    timeout -s INT -k 10 "$((left < most ? left : most))" "$@" 2>&1 | tee "$out/$name.log" | tail -n 40
    status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || failed=1
    echo "$name,$((SECONDS - start)),$([ "$status" -eq 124 ] && echo "out of time" || echo "$status")" \
        >> "$out/parts.csv"
}

# Deprecations, which fail the tests elsewhere, are those of the versions that happen to be here. With
# pytest-xdist the tests share out the cores, if all processes hash alike and so find them in one
# order; pytest-benchmark would complain of it. A file that cannot be read here stops no other one.
export PYTHONHASHSEED=0
tests=(-m gpu -p minires.pytest_plugin -W default::DeprecationWarning)
tests+=(--continue-on-collection-errors --ignore tests/parity)  # PyTorch's: no tests of a GPU
python3 -c "import xdist" 2> /dev/null && tests+=(-n 8 -p no:benchmark)

part machine 30 python3 -m minires info
part compile 60 python3 benchmarks/gpu_compile.py --results "$out"
part tests 150 python3 -m pytest "${tests[@]}" --junitxml "$out/tests.xml"
part tiles 60 python3 benchmarks/gpu_tiles.py --results "$out"
part convolutions20 60 python3 benchmarks/gpu_kernels.py --only conv20-fp32 conv20-tf32 bn --results "$out"
part steps 120 python3 benchmarks/vs_pytorch.py --device cuda --results "$out"
# as on a fresh machine: it compiles what it needs, on all cores, before it trains
cold=$(mktemp -d)
part depth 70 env CUPY_CACHE_DIR="$cold" python3 -m minires depth --device cuda --out "$out/depth"
rm -rf "$cold"
part profile 40 python3 benchmarks/gpu_profile.py
part convolutions50 90 python3 benchmarks/gpu_kernels.py --only conv50-tf32 bn50 conv50-fp32 --results "$out"
mv "$out/profile.log" "$out/profile.txt" 2> /dev/null
cat "$out/parts.csv"
exit "$failed"
