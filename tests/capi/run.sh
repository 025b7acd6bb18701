#!/usr/bin/env bash
# Builds the C harness and runs it against a library:
#   tests/capi/run.sh LIBDIR plain|asan|valgrind|cuda|panics...
# LIBDIR holds libdiffusion.so and libdiffusion.so.0. `cuda` runs it on the stand-in driver of tests/driver, plain and
# under AddressSanitizer. `panics` needs a library built with the feature fault-injection.
# Each tool first has to catch a mistake planted on purpose: a harness under a tool that is not there proves nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

libdir=$(realpath "$1")
shift
out=build/tests/capi
mkdir -p "$out"
cc=${CC:-gcc}
flags=(-std=c99 -O1 -g -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude)
link=(-L"$libdir" -Wl,-rpath,"$libdir" -ldiffusion -lpthread -lm)
export DIFFUSION_TEST_MODEL=models/emoji-64
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fail() { echo "tests/capi: $*" >&2; exit 1; }

# build NAME FLAG...: the harness as capi-NAME and the mistakes as planted-NAME.
build() {
    local name=$1
    shift
    "$cc" "${flags[@]}" "$@" tests/capi/main.c tests/capi/support.c tests/capi/files.c tests/capi/mixture.c tests/capi/test_*.c \
        -o "$out/capi-$name" "${link[@]}"
    "$cc" "${flags[@]}" "$@" tests/capi/planted.c -o "$out/planted-$name" "${link[@]}"
}

# caught MISTAKE TEXT COMMAND...: the command must fail and say TEXT.
caught() {
    local mistake=$1 text=$2
    shift 2
    if "$@" "$mistake" >"$TMPDIR/planted.log" 2>&1; then fail "the planted $mistake was not caught by: $*"; fi
    grep -q "$text" "$TMPDIR/planted.log" || { cat "$TMPDIR/planted.log"; fail "the planted $mistake failed without '$text'"; }
    echo "ok     planted $mistake is caught"
}

every_function_is_given_null() {
    local missing
    missing=$(comm -23 <(tests/functions.sh) <(grep -oE '\bdiffusion_[a-z0-9_]+\(' tests/capi/test_null.c | tr -d '(' | sort -u))
    [ -z "$missing" ] || fail "test_null.c does not call: $missing"
    echo "ok     every function of the header is in test_null.c"
}

plain() {
    every_function_is_given_null
    build plain
    "$out/capi-plain"
}

build_asan() {
    build asan -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
    # grep -c, not -q: with pipefail a reader that leaves early would fail the pipe.
    [ "$(nm "$out/capi-asan" | grep -c __asan_init)" -gt 0 ] || fail "AddressSanitizer is not in the binary"
    [ "$(nm "$out/capi-asan" | grep -c __ubsan_handle)" -gt 0 ] || fail "UBSan is not in the binary"
    export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=99
    "$out/planted-asan" none || fail "the sanitized program without a mistake fails"
    caught overflow heap-buffer-overflow "$out/planted-asan"
    caught leak LeakSanitizer "$out/planted-asan"
    caught undefined 'shift exponent' "$out/planted-asan"
}

asan() {
    build_asan
    "$out/capi-asan" --quick
}

valgrind_run() {
    # Valgrind shows an older CPU than the real one, so this covers the library's AVX2 path. Memory still reachable at
    # the end (the runtime's own tables) is no leak.
    valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --fair-sched=yes --num-callers=30 "$@"
}

valgrind_() {
    build plain
    valgrind_run "$out/planted-plain" none || fail "the program without a mistake fails under valgrind"
    caught overflow 'Invalid write' valgrind_run "$out/planted-plain"
    caught leak 'definitely lost' valgrind_run "$out/planted-plain"
    valgrind_run "$out/capi-plain" --quick version null structs options requests images img2img latents jobs callbacks \
        lifecycle schedule sampler noise guidance devices memory
}

# lacks WORD FOLDERS NAME=VALUE...: on such a machine there is no CUDA, and the reason says WORD.
lacks() {
    local word=$1 path=$2
    shift 2
    env LD_LIBRARY_PATH="$path" DIFFUSION_TEST_MISSING="$word" "$@" "$out/capi-plain" devices >"$TMPDIR/lacks.log" 2>&1 ||
        { cat "$TMPDIR/lacks.log"; fail "with $* in $path"; }
    echo "ok     a machine that lacks $word"
}

cuda() {
    make --no-print-directory -C tests/driver -j "$(nproc)"
    local driver=$PWD/build/tests/driver
    local all=$driver/cuda:$driver/cublaslt:$driver/nvrtc
    export LIBDIFFUSION_CACHE_DIR=$TMPDIR/cache
    build plain
    lacks GPU "$all" STANDIN_DEVICES=0
    lacks driver "$all" STANDIN_DRIVER_VERSION=11020
    lacks cuBLASLt "$driver/cuda"
    LD_LIBRARY_PATH=$all DIFFUSION_TEST_MODEL=tests/golden/models/sd1 "$out/capi-plain" devices cuda
    build_asan
    LD_LIBRARY_PATH=$all DIFFUSION_TEST_MODEL=tests/golden/models/sd1 "$out/capi-asan" --quick devices cuda
}

panics() {
    build panics -DDIFFUSION_FAULT_INJECTION
    "$out/capi-panics" panics
}

for mode in "$@"; do
    echo "-- C harness: $mode"
    case $mode in
    plain | asan | cuda | panics) "$mode" ;;
    valgrind) valgrind_ ;;
    *) fail "no mode '$mode'" ;;
    esac
done
