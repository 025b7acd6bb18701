#!/usr/bin/env bash
# Installs what `make test` needs and the machine lacks: Debian packages by name, and a Python environment in build/venv
# for the header test. Rust itself (with rustfmt and clippy) has to be there already. Does nothing on a machine that has
# it all.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need gcc gcc
need g++ g++
need make make
need valgrind valgrind
need pkg-config pkg-config
need readelf binutils
need python3 python3
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    echo "== installing ${missing[*]}"
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" libc6-dev
fi

command -v cargo >/dev/null || { echo "tools/setup.sh: Rust is missing: https://rustup.rs" >&2; exit 1; }
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done

has_cffi() { "$1" -c 'import cffi; assert cffi.__version__ == "2.1.1"' >/dev/null 2>&1; }
if ! has_cffi build/venv/bin/python && ! has_cffi python3; then
    echo "== installing cffi into build/venv"
    python3 -m venv build/venv
    build/venv/bin/pip install --quiet --disable-pip-version-check cffi==2.1.1
fi
