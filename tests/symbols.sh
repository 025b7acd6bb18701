#!/usr/bin/env bash
# What the shared library exports: tests/symbols.sh LIBRARY
# Only diffusion_* functions, exactly those of the ledger abi/libdiffusion.symbols and of the header, under the soname.
# The ledger only grows: a name that is gone would break programs that are already built.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
library=$1
ledger=abi/libdiffusion.symbols
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "tests/symbols.sh: $*" >&2; exit 1; }

sort -c -u "$ledger" || fail "$ledger is not sorted"
nm -D --defined-only "$library" | awk '{ print $NF }' | sort -u >"$work/exported"
if ! grep -v '^diffusion_' "$work/exported" >"$work/foreign"; then :; fi
[ ! -s "$work/foreign" ] || fail "exports that are not diffusion_*: $(tr '\n' ' ' <"$work/foreign")"
diff -u "$ledger" "$work/exported" || fail "$library does not export what $ledger lists"
tests/functions.sh | diff -u "$ledger" - || fail "include/diffusion.h does not declare what $ledger lists"
[ -z "$(nm -D --defined-only "$library" | awk '$2 != "T"')" ] || fail "an exported symbol is not a function"
soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = libdiffusion.so.0 ] || fail "the soname is '$soname', not libdiffusion.so.0"
readelf -d "$library" | grep -q NODELETE || fail "it can be unloaded while threads of the host hold destructors of it"
echo "ok     $(wc -l <"$ledger") symbols, all in the header and the ledger; soname $soname"
