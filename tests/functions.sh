#!/usr/bin/env bash
# Prints the functions the header declares, one a line, sorted. Comments and macros do not count.
set -euo pipefail
cd "$(dirname "$0")/.."
LC_ALL=C
export LC_ALL
${CC:-gcc} -E -P -nostdinc -Itests/header/empty include/diffusion.h |
    tr '\n' ' ' | grep -oE '\bdiffusion_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u
