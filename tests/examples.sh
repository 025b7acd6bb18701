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

build/bin/04_forward_process "$work/strip.png" >"$work/strip"
grep -qE '^ +0  0\.9996  0\.0292 +30\.7 dB$' "$work/strip" || fail "04_forward_process does not begin with the picture"
grep -qE '^ +999  0\.0683  0\.9977 +-23\.3 dB$' "$work/strip" || fail "04_forward_process does not end in noise"
build/bin/04_forward_process "$work/again.png" "$work/strip.png" >/dev/null || fail "04_forward_process takes no picture"
[ -s "$work/again.png" ] || fail "04_forward_process writes no picture"
if build/bin/04_forward_process "$work/x.png" no/such.png 2>"$work/err"; then fail "04_forward_process finds no/such.png"; fi
grep -qF no/such.png "$work/err" || fail "04_forward_process does not name no/such.png"

# near MOST: every line that compares the samples with the mixture does so within MOST.
near() {
    awk -v most="$1" '/^(mean|variance|covariance)/ { n++; off = $(NF - 1) - $NF; if (off < -most || off > most) bad = 1 }
                      END { exit bad || n != 5 }' "$work/loop" || fail "05_own_the_loop: $(cat "$work/loop")"
}
build/bin/05_own_the_loop euler 100 "$work/points.png" >"$work/loop"
near 0.04
grep -q '^4000 points, euler, 100 steps, 100 evaluations$' "$work/loop" || fail "05_own_the_loop does not say what it did"
[ -s "$work/points.png" ] || fail "05_own_the_loop writes no picture"
build/bin/05_own_the_loop ddpm 1000 >"$work/loop"
near 0.04
if build/bin/05_own_the_loop eular 2>"$work/err"; then fail "05_own_the_loop knows 'eular'"; fi
if build/bin/05_own_the_loop ddim 0 2>"$work/err"; then fail "05_own_the_loop takes 0 steps"; fi
grep -q 'steps 0' "$work/err" || fail "05_own_the_loop does not name the steps: $(cat "$work/err")"

"$txt2img" --help | grep -q -- '--guidance' || fail "--help does not help"
"$txt2img" --sampler help >"$work/samplers"
[ "$(cut -d ' ' -f 1 "$work/samplers" | head -n 4 | tr '\n' ' ')" = 'auto ddpm ddim euler ' ] || fail "--sampler help lists other samplers"
grep -qE '^dpmpp_2m +The usual choice .*arXiv:2211\.01095.*; order 2, 1 a step\)$' "$work/samplers" || fail "--sampler help does not tell of dpmpp_2m"
grep -qE '^karras .*arXiv:2206\.00364' <("$txt2img" --sigma-schedule help) || fail "--sigma-schedule help does not list karras"
"$txt2img" --set help | grep "^guidance_rescale " >/dev/null || fail "--set help does not list guidance_rescale"

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

"$txt2img" "${cat[@]}" --image "$work/one.png" --strength 0.5 --mask "$work/one.png" --steps 4 --set eta=0.5 \
    --set guidance_schedule=2.5,1 -o "$work/painted.png" >"$work/out"
grep -q ' 2 steps' "$work/out" || fail "--strength 0.5 of 4 steps does not take 2: $(cat "$work/out")"
grep -qaF 'Denoising strength: 0.5' "$work/painted.png" || fail "painted.png does not carry its strength"

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
refused no.png "${cat[@]}" --image no.png
refused README.md "${cat[@]}" --image README.md
refused mask "${cat[@]}" --mask "$work/one.png"
refused strength "${cat[@]}" --image "$work/one.png" --strength 2
refused nonsense "${cat[@]}" --set nonsense=1
refused "--set 'eta'" "${cat[@]}" --set eta
refused "sigmas '3,x'" "${cat[@]}" --set sigmas=3,x
refused sigmas "${cat[@]}" --set sigmas=1,2,0
refused tpu "${cat[@]}" --device tpu
"$txt2img" --device help >"$work/devices"
if reason=$(sed -n 's/^no GPU: //p' "$work/devices") && [ -n "$reason" ]; then
    refused "$reason" "${cat[@]}" --device cuda
else
    grep -qE '^cuda 0  .*, [0-9.]+ GiB, compute capability [0-9.]+$' "$work/devices" ||
        fail "--device help lists no device: $(cat "$work/devices")"
fi
"$txt2img" "${cat[@]}" --device cpu --weights int8 --seed 8 -o "$work/int8.png" >/dev/null || fail "--weights int8 does not work"
if cmp -s "$work/int8.png" "$work/single.png"; then fail "--weights int8 changes nothing"; fi
"$txt2img" "${cat[@]}" --device cpu --weights stored --seed 8 -o "$work/stored.png" >/dev/null
refused "--weights 'int4'" "${cat[@]}" --weights int4
refused "--precision 'half'" "${cat[@]}" --precision half
refused f16 "${cat[@]}" --device cpu --precision f16
refused "--device-index '-1'" "${cat[@]}" --device-index -1
refused no/such/model --model no/such/model --prompt cat
refused no/such/folder "${cat[@]}" -o no/such/folder/x.png
echo "ok     01_version, 02_txt2img, 03_async_cancel, 04_forward_process, 05_own_the_loop"
