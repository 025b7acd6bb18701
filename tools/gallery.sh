#!/usr/bin/env bash
# Draws the pictures of the README with the C example: one for each line of tools/gallery.txt, the number of the line being
# its seed. Writes docs/images/gallery/SEED.png and the table in README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=docs/images/gallery columns=6 steps=20 guidance=2.5
begin='<!-- from here on: make gallery -->' end='<!-- up to here: make gallery -->'

grep -qF -- "$begin" README.md && grep -qF -- "$end" README.md ||
    { echo "tools/gallery.sh: README.md has no place for the gallery" >&2; exit 1; }
rm -rf "$folder" && mkdir -p "$folder"
table=$(mktemp)
trap 'rm -f "$table"' EXIT

seed=0
echo '<table align="center">' >"$table"
while IFS= read -r prompt; do
    seed=$((seed + 1))
    build/bin/02_txt2img --model models/emoji --prompt "$prompt" --steps $steps --guidance $guidance --seed $seed \
        --device cpu -o "$folder/$seed.png" >/dev/null
    [ $((seed % columns)) != 1 ] || echo '<tr>' >>"$table"
    echo "<td align=\"center\" width=\"128\"><img src=\"$folder/$seed.png\" width=\"112\" alt=\"$prompt\"><br>$prompt<br>" \
        "<sub>seed $seed</sub></td>" >>"$table"
    [ $((seed % columns)) != 0 ] || echo '</tr>' >>"$table"
done <tools/gallery.txt
[ $((seed % columns)) = 0 ] || echo '</tr>' >>"$table"
echo '</table>' >>"$table"

size=$(cat "$folder"/*.png | wc -c)
[ "$size" -lt 300000 ] || { echo "tools/gallery.sh: $folder has $size bytes, 300,000 are allowed" >&2; exit 1; }
sed -i -e "/^$begin\$/,/^$end\$/{/^$begin\$/r $table" -e "/^$begin\$/!{/^$end\$/!d}}" README.md
echo "ok     $seed pictures, $size bytes, in $folder"
