#!/usr/bin/env bash
# Checks and times libdiffusion on this machine's GPU: tools/gpu_check.sh OUTDIR [--stand-in]. First, on a machine with
# Rust: tools/gpu_build.sh, whose folder build/gpu has to be here. This machine needs a driver, cuBLASLt, and a Python
# (python3, or what PYTHON names) with PyTorch and transformers; it takes less than eight minutes. OUTDIR gets log.txt,
# bench.md and summary.txt, the table, which is printed last.
#
# --stand-in tries the script without a GPU, on the driver of tests/driver (make -C tests/driver): with small shapes and
# a tiny model, and with more time, since an emulated GPU is slow.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?usage: tools/gpu_check.sh OUTDIR [--stand-in]}" && cd "$1" && pwd)
gpu=$PWD/build/gpu python=${PYTHON:-python3} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$work/site CARGO_MANIFEST_DIR=$PWD LIBDIFFUSION_GPU=1
# Where PyTorch's packages have cuBLASLt.
export VIRTUAL_ENV=${VIRTUAL_ENV:-$($python -c 'import sys; print(sys.prefix)')}
seconds=470 slow=1 bench=() models="sd15:512 sdxl:1024"
if [ "${2:-}" = --stand-in ]; then
    driver=$PWD/build/tests/driver
    export LD_LIBRARY_PATH=$driver/cuda:$driver/cublaslt:$driver/nvrtc OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    seconds=4700 slow=10 bench=(--smoke) models=""
fi
summary=$out/summary.txt
: >"$out/log.txt"
{
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    git log -1 --format='%h %s'
} >"$summary" 2>/dev/null

# step NAME SECONDS COMMAND...: runs it, keeps its log, and goes on whatever comes of it. All together have $seconds.
step() {
    local name=$1 limit=$(($2 * slow)) begin=$SECONDS status=0 left=$((seconds - SECONDS))
    shift 2
    if [ $left -lt 1 ]; then left=1; fi
    if [ "$limit" -gt $left ]; then limit=$left; fi
    echo "== $name" | tee -a "$out/log.txt"
    timeout "$limit" "$@" >"$work/$name.log" 2>&1 || status=$?
    cat "$work/$name.log" >>"$out/log.txt"
    tail -n 3 "$work/$name.log"
    if [ $status = 0 ]; then echo "ok     $name, $((SECONDS - begin)) s"; else echo "FAILED $name, status $status"; fi |
        tee -a "$summary"
}

# compare NAME FOLDER ARGUMENTS...
compare() {
    step "compare-$1" 150 "$python" tools/gpu_compare.py "$2" --library "$gpu/libdiffusion.so" "${@:3}"
}

step wheels 60 "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --target "$work/site" "$gpu"/wheels/*.whl
step kernels 60 env KERNELS="$gpu/kernels" "$gpu/kernel-tests"
step operations 90 "$gpu/unit-tests" cuda --test-threads 1
step bench 60 "$gpu/bench" "$out/bench.md" "${bench[@]}"
for model in $models; do
    name=${model%:*} size=${model#*:}
    step "make-$name" 120 "$python" tools/make_model.py "$name" "$work/$name" --dtype f16 \
        --tokenizer tests/golden/tokenizer/clip
    compare "$name" "$work/$name" --size "$size"
    rm -rf "${work:?}/$name"
done
if [ -z "$models" ]; then
    compare tiny tests/golden/models/sd1 --size 64 --steps 3 --rounds 1 --torch-device cpu
fi

{
    echo
    cat "$out/bench.md"
    grep -h -A 20 "against diffusers" "$work"/compare-*.log
} >>"$summary" 2>/dev/null
cat "$summary"
! grep -q ^FAILED "$summary"
