#!/usr/bin/env bash
# Checks and times libdiffusion on this machine's GPU: tools/gpu_check.sh OUTDIR. First, on a machine with Rust:
# tools/gpu_build.sh, whose folder build/gpu has to be here. This machine needs a driver, cuBLASLt, and a Python with
# PyTorch for the comparison; it takes less than eight minutes. Logs and the table, which is printed last, are in OUTDIR.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?usage: tools/gpu_check.sh OUTDIR}" && cd "$1" && pwd)
gpu=$PWD/build/gpu
export PYTHONPATH=$out/site CARGO_MANIFEST_DIR=$PWD LIBDIFFUSION_GPU=1
summary=$out/summary.txt
{
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    git log -1 --format='%h %s' 2>/dev/null
} >"$summary"

# step NAME SECONDS COMMAND...: runs it, keeps its log, and goes on whatever comes of it. All together have 470 s.
step() {
    local name=$1 limit=$2 begin=$SECONDS status=0 left=$((470 - SECONDS))
    shift 2
    if [ $left -lt 1 ]; then left=1; fi
    if [ "$limit" -gt $left ]; then limit=$left; fi
    echo "== $name"
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 3 "$out/$name.log"
    if [ $status = 0 ]; then echo "ok     $name, $((SECONDS - begin)) s"; else echo "FAILED $name, status $status"; fi |
        tee -a "$summary"
}

step wheels 60 python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$out/site" "$gpu"/wheels/*.whl
step kernels 60 env KERNELS="$gpu/kernels" "$gpu/kernel-tests"
step operations 90 "$gpu/unit-tests" cuda --test-threads 1
step bench 60 "$gpu/bench" "$out/bench.md"
for model in sd15:512 sdxl:1024; do
    name=${model%:*} size=${model#*:}
    step "make-$name" 120 python3 tools/make_model.py "$name" "$out/$name" --dtype f16 \
        --tokenizer tests/golden/tokenizer/clip
    step "compare-$name" 150 python3 tools/gpu_compare.py "$out/$name" --library "$gpu/libdiffusion.so" --size "$size"
    rm -rf "${out:?}/$name"
done

{
    echo
    cat "$out/bench.md"
    grep -h -A 20 "against diffusers" "$out"/compare-*.log
} >>"$summary" 2>/dev/null
cat "$summary"
! grep -q ^FAILED "$summary"
