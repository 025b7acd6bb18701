#!/usr/bin/env bash
# Builds into build/gpu all that tools/gpu_check.sh runs on a machine with an NVIDIA GPU, which needs no Rust, no
# compiler and no network then: binaries for glibc 2.28 and newer, machine code of the kernels, a wheel of diffusers.
# Needs the package index; no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/gpu target=x86_64-unknown-linux-gnu glibc=2.28 venv=build/gpu-venv
rm -rf $out
mkdir -p $out/kernels
if [ ! -x $venv/bin/cargo-zigbuild ]; then
    echo "== installing zig, as a linker for old glibc, into $venv"
    python3 -m venv $venv
    $venv/bin/pip install --quiet --disable-pip-version-check --no-deps ziglang==0.17.1 cargo-zigbuild==0.24.0
fi
export PATH=$PWD/$venv/bin:$PATH

pack=build/kernels/kernels.pack
if [ ! -e $pack ] || [ -n "$(find kernels tests/kernels/wrappers.cu tools/kernels.py -newer $pack)" ]; then
    echo "== kernels for every architecture"
    tools/kernels.py build
fi
# What the tests of kernels load.
cp build/kernels/*.sm_*[0-9].cubin $out/kernels/

echo "== tests of kernels"
make --no-print-directory -C tests/kernels -j "$(nproc)" BUILD=card OUT=../../build/tests/kernels/gpu \
    ARCH=x86_64_v3 WARNINGS=-w CXX="python-zig c++ -target x86_64-linux-gnu.$glibc"
cp build/tests/kernels/gpu/tests $out/kernel-tests

echo "== the library"
cargo-zigbuild rustc --quiet --release --target $target.$glibc --lib --crate-type cdylib
cp target/$target/release/libdiffusion.so $out/

# executable KIND: the one that cargo's messages on standard input name, of that kind of target.
executable() {
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and sys.argv[1] in message["target"]["kind"]:
        print(message["executable"])' "$1" | tail -n 1
}
echo "== unit tests and the bench"
test=(--quiet --profile test --target $target.$glibc --message-format json)
cp "$(cargo-zigbuild test --no-run --lib "${test[@]}" | executable lib)" $out/unit-tests
cp "$(cargo-zigbuild build --bench cuda "${test[@]}" | executable bench)" $out/bench

echo "== a wheel of diffusers"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d $out/wheels diffusers==0.42.1

for file in $out/{libdiffusion.so,unit-tests,bench,kernel-tests}; do
    strip "$file"
    newest=$(objdump -T "$file" | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1)
    if [ "$(printf '%s\n' "$newest" GLIBC_$glibc | sort -V | tail -n 1)" != GLIBC_$glibc ]; then
        echo "tools/gpu_build.sh: $file needs $newest" >&2
        exit 1
    fi
done
du -sh $out
