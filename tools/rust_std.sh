# For tools/aarch64.sh and tools/windows.sh, which have `target` and `fail`: Rust's standard library for the target, as
# options of cargo in the array `std`. It is installed, or built from the source that RUST_SRC names.
std=()
if [ -n "${RUST_SRC:-}" ]; then
    [ -e "$RUST_SRC/std/Cargo.toml" ] || fail "RUST_SRC=$RUST_SRC has no std/Cargo.toml"
    export __CARGO_TESTS_ONLY_SRC_ROOT=$RUST_SRC RUSTC_BOOTSTRAP=1
    std=(-Zbuild-std="std,test")
elif [ ! -e "$(rustc --print target-libdir --target "$target")" ]; then
    fail "Rust's standard library is missing: rustup target add $target"
fi
