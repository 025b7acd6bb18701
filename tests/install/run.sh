#!/usr/bin/env bash
# Installs into an empty folder, builds and runs a program there the way a user would, uninstalls, and looks for remains.
set -euo pipefail
cd "$(dirname "$0")/../.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
prefix="/opt/some where"

fail() { echo "tests/install: $*" >&2; exit 1; }

# A prefix that needs DESTDIR: pkg-config then maps the paths with its sysroot.
make --no-print-directory install DESTDIR="$stage" PREFIX="$prefix"
root=$stage$prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
for file in include/diffusion.h "lib/libdiffusion.so.$version" lib/pkgconfig/diffusion.pc; do
    [ -f "$root/$file" ] && [ ! -L "$root/$file" ] || fail "$file was not installed"
done
[ "$(readlink "$root/lib/libdiffusion.so")" = libdiffusion.so.0 ] || fail "lib/libdiffusion.so is no link"
[ "$(readlink "$root/lib/libdiffusion.so.0")" = "libdiffusion.so.$version" ] || fail "lib/libdiffusion.so.0 is no link"
if grep -rl "$stage" "$root/lib/pkgconfig"; then fail "DESTDIR leaks into the pkg-config file"; fi

export PKG_CONFIG_PATH=$root/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$stage
[ "$(pkg-config --modversion diffusion)" = "$version" ] || fail "pkg-config does not know version $version"
eval "flags=($(pkg-config --cflags --libs diffusion))" # it escapes the space for a shell
"${CC:-gcc}" -std=c99 examples/c/01_version.c "${flags[@]}" -o "$stage/consumer"
LD_LIBRARY_PATH=$root/lib "$stage/consumer" >"$stage/said"
grep -q "$version" "$stage/said" || fail "the installed library does not say $version"
LD_LIBRARY_PATH=$root/lib ldd "$stage/consumer" >"$stage/ldd"
grep -q "$root/lib/libdiffusion.so.0" "$stage/ldd" || fail "the program does not use the installed library"
rm "$stage/consumer" "$stage/said" "$stage/ldd"

make --no-print-directory uninstall DESTDIR="$stage" PREFIX="$prefix"
left=$(find "$stage" ! -type d)
[ -z "$left" ] || fail "uninstall leaves $left"
echo "ok     installs, serves a program through pkg-config, uninstalls"
