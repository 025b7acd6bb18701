#!/usr/bin/env bash
# Builds the kernels for the CPU and runs their tests on the emulated GPU of kernels/host:
#   tests/kernels/run.sh plain|watch|asan|card...
# Each build first has to catch the mistakes of planted.cu: tests that cannot fail prove nothing. `card` goes through a
# driver instead: libcuda.so.1 with the images in $KERNELS, or where that is unset the stand-in of tests/driver.
set -euo pipefail
cd "$(dirname "$0")/../.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
fail() { echo "tests/kernels: $*" >&2; exit 1; }

# caught MISTAKE TEXT: the planted mistake must fail and say TEXT.
caught() {
    if "$out/planted" "$1" >"$log" 2>&1; then fail "the planted $1 was not caught"; fi
    grep -q "$2" "$log" || { cat "$log"; fail "the planted $1 failed without '$2'"; }
    echo "ok     planted $1 is caught"
}

# Without WATCH a race shows as a wrong result, under some schedule.
plain() {
    caught no_wait 'FAILED'
    caught no_barrier_before_reading 'FAILED'
    caught no_barrier_after_reading 'FAILED'
    caught no_warp_barrier 'FAILED'
    caught divergent_barrier 'deadlock'
    caught read_past_the_end 'out-of-bounds access'
    caught write_past_the_end 'out-of-bounds access'
    caught shared_past_the_end 'out-of-bounds access'
    caught misaligned_copy 'no multiple of 16'
    caught too_much_shared 'bytes of shared memory'
}

# With it, the first schedule is enough, and results need not be wrong: blocks_collide writes the same values twice.
watch() {
    caught no_wait 'race with an asynchronous copy'
    caught no_barrier_before_reading 'of shared memory, which nobody wrote'
    caught no_barrier_after_reading 'race with'
    caught no_warp_barrier 'race with'
    caught blocks_collide 'race with a write at byte .* of global memory'
    caught read_past_the_end 'out-of-bounds access'
    caught write_past_the_end 'out-of-bounds access'
    caught shared_past_the_end 'out-of-bounds access'
}

asan() {
    caught read_past_the_end 'heap-buffer-overflow'
    caught write_past_the_end 'heap-buffer-overflow'
    caught shared_past_the_end 'index 513 out of bounds'
}

card() {
    if [ -z "${KERNELS:-}" ]; then
        local driver=build/tests/driver/cuda
        export KERNELS=$out/images LD_LIBRARY_PATH=$driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        [ -e "$driver/libcuda.so.1" ] || fail "no $driver/libcuda.so.1: make -C tests/driver"
        mkdir -p "$KERNELS"
        printf '.version 8.8\n.target sm_80\n.address_size 64\n' >"$KERNELS/all.ptx"
    fi
    "$out/tests"
}

for build in "$@"; do
    case $build in
    plain | watch | asan) echo "-- kernels on the emulated GPU: $build" ;;
    card) echo "-- kernels through a driver" ;;
    *) fail "no build '$build'" ;;
    esac
    out=build/tests/kernels/$build
    make --no-print-directory -C tests/kernels -j "$(nproc)" BUILD="$build"
    if [ "$build" = card ]; then
        card
        continue
    fi
    "$out/planted" none >"$log" || fail "the planted kernel without a mistake fails"
    "$build"
    "$out/tests"
done
