#!/usr/bin/env bash
# Builds into build/gpu all that tools/gpu_check.sh runs on a machine with an NVIDIA GPU, which needs no Rust, no
# compiler and no network then: binaries for glibc 2.28 and newer, kernels for every architecture, a wheel of diffusers.
# Needs the package index; no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/gpu target=x86_64-unknown-linux-gnu venv=build/gpu-venv
mkdir -p $out
if [ ! -x $venv/bin/cargo-zigbuild ]; then
    echo "== installing zig, as a linker for old glibc, into $venv"
    python3 -m venv $venv
    $venv/bin/pip install --quiet --disable-pip-version-check --no-deps ziglang==0.17.1 cargo-zigbuild==0.24.0
fi
export PATH=$PWD/$venv/bin:$PATH

echo "== kernels for every architecture"
tools/kernels.py build
rm -rf $out/kernels
cp -r build/kernels $out/kernels

echo "== tests of kernels"
make --no-print-directory -C tests/kernels -j "$(nproc)" BUILD=card OUT=../../$out/tests ARCH=x86_64_v3 WARNINGS=-w \
    CXX="python-zig c++ -target x86_64-linux-gnu.2.28"
cp $out/tests/tests $out/kernel-tests

echo "== the library"
cargo zigbuild --quiet --release --target $target.2.28 --lib
cp target/$target/release/libdiffusion.so $out/

# built KIND ARGUMENTS...: the path of the binary that cargo makes.
built() {
    local kind=$1
    shift
    cargo zigbuild --quiet --target $target.2.28 --message-format json "$@" | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and sys.argv[1] in message["target"]["kind"]:
        print(message["executable"])' "$kind" | tail -n 1
}
echo "== unit tests and the bench"
cp "$(built lib --profile test --lib --tests)" $out/unit-tests
cp "$(built bench --release --bench cuda)" $out/bench
strip $out/unit-tests $out/bench $out/kernel-tests

echo "== a wheel of diffusers"
pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d $out/wheels diffusers==0.42.1
du -sh $out
