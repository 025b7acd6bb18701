#!/usr/bin/env bash
# Every crate that is linked into the library has its line, with its licence, in NOTICE.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=0 count=0
while IFS='|' read -r name licence; do
    count=$((count + 1))
    grep -qE "^    $name +${licence:0:3}" NOTICE || { echo "NOTICE lacks: $name $licence" >&2; missing=1; }
done < <("${CARGO:-cargo}" tree --locked -e normal,no-proc-macro --prefix none -f '{p}|{l}' |
    sed 's/ v[^|]*|/|/; s/ (\*)//' | sort -u | grep -v '^libdiffusion|')
[ $missing = 0 ] && [ $count -gt 10 ] || exit 1
echo "ok     $count crates in NOTICE"
