#!/usr/bin/env bash
# Builds the library for AArch64, tests it under qemu's emulation, and draws README's picture there:
#   tools/aarch64.sh OUTDIR        OUTDIR receives the library, the tests and the picture
# Needs Debian's gcc-aarch64-linux-gnu and qemu-user, and Rust's standard library for AArch64: that of `rustup target add
# aarch64-unknown-linux-gnu`, or its source to build it from, RUST_SRC=.../library of the same version of Rust. Rust tests
# that draw many pictures are left out, being slow there, and CUDA, which has no stand-in for AArch64.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
fail() { echo "tools/aarch64.sh: $*" >&2; exit 1; }
[ $# = 1 ] || fail "usage: tools/aarch64.sh OUTDIR"
out=$(mkdir -p "$1" && realpath "$1")
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $tool >/dev/null || fail "$tool is missing: Debian's packages gcc-aarch64-linux-gnu and qemu-user"
done
. tools/rust_std.sh
emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$emulator

echo "== the library"
cargo rustc --release --lib --crate-type cdylib --target $target "${std[@]}"
cp target/$target/release/libdiffusion.so "$out/"
ln -sf libdiffusion.so "$out/libdiffusion.so.0"

c() {
    aarch64-linux-gnu-gcc -std=c99 -O2 -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude "$@" \
        -L"$out" -Wl,-rpath,"$out" -ldiffusion -lpthread -lm
}
echo "== README's picture"
c examples/c/02_txt2img.c -o "$out/02_txt2img"
$emulator "$out/02_txt2img" --model models/emoji --prompt "a rocket on a dark blue background" \
    --guidance 2.5 --steps 20 --seed 1 -o "$out/demo.png"

echo "== C harness"
c tests/capi/{main,support,files,mixture}.c tests/capi/test_*.c -o "$out/capi"
DIFFUSION_TEST_MODEL=models/emoji-64 $emulator "$out/capi" --quick

echo "== Rust tests: units, operations, models"
cargo test --release --lib --target $target "${std[@]}" -- \
    backend::cpu backend::shape util:: sampling:: tokenizer:: weights:: models:: capi::
