#!/usr/bin/env bash
# Builds the library for Windows (x86-64), tests it under Wine, and draws README's picture there:
#   tools/windows.sh OUTDIR        OUTDIR receives diffusion.dll, libdiffusion.dll.a to link with, tests and the picture
# Needs Debian's gcc-mingw-w64-x86-64-posix and wine, and Rust's standard library for x86_64-pc-windows-gnu: that of `rustup
# target add x86_64-pc-windows-gnu`, or its source to build it from, RUST_SRC=.../library of the same version of Rust. What
# needs a stand-in for CUDA is left out: it has none for Windows.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-pc-windows-gnu
fail() { echo "tools/windows.sh: $*" >&2; exit 1; }
[ $# = 1 ] || fail "usage: tools/windows.sh OUTDIR"
out=$(mkdir -p "$1" && realpath "$1")
for tool in x86_64-w64-mingw32-gcc wine; do
    command -v $tool >/dev/null || fail "$tool is missing: Debian's packages gcc-mingw-w64-x86-64-posix and wine"
done
. tools/rust_std.sh
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
# Without the parts of Wine that it would offer to install.
export WINEPREFIX=$out/wine WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" DIFFUSION_TEST_MODEL=models/emoji-64

# library FOLDER CARGO-OPTION...
library() {
    mkdir -p "$1"
    cargo rustc --release --lib --crate-type cdylib --target $target "${std[@]}" "${@:2}"
    cp target/$target/release/{diffusion.dll,libdiffusion.dll.a} "$1/"
}
# c FOLDER GCC-OPTION...: with the library of the folder
c() {
    x86_64-w64-mingw32-gcc -std=c99 -O2 -Wall -Wextra -Wconversion -Werror -Iinclude "${@:2}" -L"$1" -ldiffusion \
        -static-libgcc -Wl,-Bstatic -lpthread -Wl,-Bdynamic
}
# harness FOLDER GCC-OPTION...: mingw-w64's mathematics compute floats in doubles
harness() {
    c "$1" -Wno-float-conversion -D__USE_MINGW_ANSI_STDIO=1 -Itests/windows -include tests/windows/posix.h \
        tests/capi/{main,support,files,mixture}.c tests/capi/test_*.c "${@:2}" -o "$1/capi.exe"
}

echo "== the library"
library "$out"
echo "== Wine"
wineboot --init
# Rust's standard library takes random numbers from a library of Windows 10's that old versions of Wine (8 for one) lack.
prng=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
if [ ! -e "$prng" ]; then
    x86_64-w64-mingw32-gcc -shared -O2 tests/windows/bcryptprimitives.c -ladvapi32 -o "$prng"
fi

echo "== README's picture"
c "$out" examples/c/02_txt2img.c -o "$out/02_txt2img.exe"
wine "$out/02_txt2img.exe" --model models/emoji --prompt "a rocket on a dark blue background" \
    --guidance 2.5 --steps 20 --seed 1 -o "$out/demo.png"

echo "== paths, unloading"
c "$out" tests/windows/system.c -o "$out/system.exe"
(cd "$out" && wine system.exe diffusion.dll)

echo "== C harness"
harness "$out"
wine "$out/capi.exe"

echo "== planted panics"
library "$out/panics" --features fault-injection
harness "$out/panics" -DDIFFUSION_FAULT_INJECTION
wine "$out/panics/capi.exe" panics

echo "== Rust tests"
cargo test --release --lib --target $target "${std[@]}"
