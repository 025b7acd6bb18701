#!/usr/bin/env bash
# The header on its own: tests/header/run.sh LIBRARY
# Compiles alone and twice in every dialect with all warnings as errors, keeps its layout, and parses with cffi.
set -euo pipefail
cd "$(dirname "$0")/../.."
library=$(realpath "$1")
cc=${CC:-gcc}
cxx=${CXX:-g++}
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wstrict-aliasing=2 -Werror)
out=build/tests/header
mkdir -p "$out"

fail() { echo "tests/header: $*" >&2; exit 1; }

for standard in c99 c11; do
    "$cc" -std=$standard -pedantic-errors "${warnings[@]}" -Wstrict-prototypes -Wc++-compat -Iinclude \
        -fsyntax-only tests/header/twice.c
done
for standard in c++98 c++17; do
    "$cxx" -x c++ -std=$standard "${warnings[@]}" -Wno-long-long -Iinclude -fsyntax-only tests/header/twice.c
done
echo "ok     compiles alone and twice as C99, C11, C++98 and C++17"

if [ "$(uname -m)" = x86_64 ] || [ "$(uname -m)" = aarch64 ]; then
    "$cc" -std=c11 "${warnings[@]}" -Iinclude -fsyntax-only tests/header/layout.c
fi
declarations=$out/diffusion.i
"$cc" -E -P -nostdinc -Itests/header/empty '-D__attribute__(x)=' include/diffusion.h >"$declarations"
# Every field of every structure has its line in layout.c.
awk '{ gsub(/\{/, " {\n"); gsub(/;/, ";\n"); gsub(/\}/, "\n} "); print }' "$declarations" |
    awk '/typedef struct [a-z_]+ *\{/ { inside = $3; sub(/\{.*/, "", inside); next }
         /^ *\}/ { inside = "" }
         inside != "" && /;/ { field = $0; sub(/ *;.*/, "", field); sub(/.*[ *]/, "", field); print inside, field }' \
        >"$out/fields"
[ "$(wc -l <"$out/fields")" -gt 50 ] || fail "only $(wc -l <"$out/fields") structure fields found in the header"
while read -r structure field; do
    grep -q "^AT($structure, $field, [0-9]*);" tests/header/layout.c || fail "layout.c lacks $structure.$field"
done <"$out/fields"
echo "ok     $(wc -l <"$out/fields") structure fields lie where layout.c says"

python=build/venv/bin/python # tools/setup.sh makes it where python3 has no cffi
[ -x $python ] || python=python3
$python tests/header/parse.py "$declarations" "$library"
