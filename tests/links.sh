#!/usr/bin/env bash
# Every relative link in every tracked Markdown file leads to a file or folder of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
broken=0 count=0
while IFS= read -r document; do
    while IFS= read -r target; do
        case $target in *://* | mailto:* | '#'*) continue ;; esac
        count=$((count + 1))
        path=$(dirname "$document")/${target%%#*}
        if [ ! -e "$path" ]; then
            echo "$document: no such file: $target" >&2
            broken=1
        fi
    done < <({ grep -oE '\]\([^) ]+\)' "$document" || true; } | sed 's/^](//; s/)$//')
done < <(git ls-files '*.md')
[ $broken = 0 ] || exit 1
echo "ok     $count links"
