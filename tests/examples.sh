#!/usr/bin/env bash
# The C examples do what they say: run as a user would, with good and bad arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
txt2img=build/bin/02_txt2img

fail() { echo "tests/examples.sh: $*" >&2; exit 1; }

# refused TEXT ARGUMENT...: a non-zero exit, nothing on stdout, one line on stderr that contains TEXT.
refused() {
    local text=$1
    shift
    if "$txt2img" "$@" >"$work/out" 2>"$work/err"; then fail "txt2img $* succeeds"; fi
    [ ! -s "$work/out" ] || fail "txt2img $* fails but prints: $(cat "$work/out")"
    [ "$(wc -l <"$work/err")" = 1 ] || fail "txt2img $*: not one line: $(cat "$work/err")"
    grep -qF -- "$text" "$work/err" || fail "txt2img $*: '$(cat "$work/err")' does not name $text"
}

build/bin/01_version >"$work/version"
grep -q 'running with 0\.' "$work/version" || fail "01_version does not say the version"

build/bin/03_async_cancel models/emoji-64 >"$work/cancel"
grep -q 'CANCELLED' "$work/cancel" || fail "03_async_cancel does not cancel"
grep -q 'finished 5/5' "$work/cancel" || fail "03_async_cancel does not finish"

"$txt2img" --help | grep -q -- '--guidance' || fail "--help does not help"
[ "$("$txt2img" --sampler help | tr '\n' ' ')" = 'auto ddpm ddim euler ' ] || fail "--sampler help lists other samplers"

cat=(--model models/emoji-64 --prompt 'a blue cat' --guidance 2.5 --steps 2)
"$txt2img" "${cat[@]}" --negative 'a dog' --sampler euler --seed 18446744073709551615 --width 64 --height 64 --threads 1 \
    --device cpu -o "$work/one.png" >"$work/out" 2>"$work/err"
grep -qF "$work/one.png" "$work/out" || fail "txt2img does not say where the picture is"
grep -q 'text .* ms, denoise .* ms, decode .* ms' "$work/out" || fail "txt2img does not say how long the stages took"
[ ! -s "$work/err" ] || fail "a progress bar without a terminal: $(cat "$work/err")"
[ "$(head -c 8 "$work/one.png" | od -An -tx1 | tr -d ' ')" = 89504e470d0a1a0a ] || fail "one.png is no PNG"
for text in parameters 'a blue cat' 'Negative prompt: a dog' 'Steps: 2' 'Seed: 18446744073709551615'; do
    grep -qaF "$text" "$work/one.png" || fail "one.png does not carry '$text'"
done

"$txt2img" "${cat[@]}" --batch 2 --seed 7 -o "$work/many.png" >/dev/null
"$txt2img" "${cat[@]}" --seed 8 -o "$work/single.png" >/dev/null
[ -s "$work/many-0.png" ] && [ ! -e "$work/many.png" ] || fail "a batch is not numbered"
cmp -s "$work/many-1.png" "$work/single.png" || fail "image 1 of a batch with seed 7 is not image 0 with seed 8"

refused --prompt --model models/emoji-64
refused --model --prompt cat
refused --color --color red
refused '--steps needs a value' "${cat[@]}" --steps
refused "--steps 'ten'" "${cat[@]}" --steps ten
refused steps "${cat[@]}" --steps 5000
refused guidance_scale "${cat[@]}" --guidance -1
refused "--guidance '2,5'" "${cat[@]}" --guidance 2,5
refused width "${cat[@]}" --width 63
refused dpm "${cat[@]}" --sampler dpm
refused tpu "${cat[@]}" --device tpu
refused CUDA "${cat[@]}" --device cuda
refused no/such/model --model no/such/model --prompt cat
refused no/such/folder "${cat[@]}" -o no/such/folder/x.png
echo "ok     01_version, 02_txt2img, 03_async_cancel"
