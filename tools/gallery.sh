#!/usr/bin/env bash
# Draws the pictures of the README with the C example: what `make demo` draws, and one for each line of tools/gallery.txt,
# the number of the line being its seed. Writes docs/images/demo.png, docs/images/gallery/SEED.png and the table in README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=docs/images/gallery columns=6 most=700000
begin='<!-- from here on: make gallery -->' end='<!-- up to here: make gallery -->'

grep -qF -- "$begin" README.md && grep -qF -- "$end" README.md ||
    { echo "tools/gallery.sh: README.md has no place for the gallery" >&2; exit 1; }
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
table=$new/table
draw() { # PROMPT SEED FILE
    build/bin/02_txt2img --model models/emoji --prompt "$1" --steps 20 --guidance 2.5 --seed "$2" --device cpu -o "$3" >/dev/null
}

seed=0
echo '<table align="center">' >"$table"
while IFS= read -r prompt; do
    seed=$((seed + 1))
    draw "$prompt" $seed "$new/$seed.png"
    [ $((seed % columns)) != 1 ] || echo '<tr>' >>"$table"
    echo "<td align=\"center\" width=\"128\"><img src=\"$folder/$seed.png\" width=\"112\" alt=\"$prompt\"><br>$prompt<br>" \
        "<sub>seed $seed</sub></td>" >>"$table"
    [ $((seed % columns)) != 0 ] || echo '</tr>' >>"$table"
done <tools/gallery.txt
[ $((seed % columns)) = 0 ] || echo '</tr>' >>"$table"
echo '</table>' >>"$table"

size=$(cat "$new"/*.png | wc -c)
[ "$size" -lt $most ] || { echo "tools/gallery.sh: the pictures have $size bytes, $most are allowed" >&2; exit 1; }
draw "a rocket on a dark blue background" 1 docs/images/demo.png
rm -rf "$folder" && mkdir -p "$folder" && cp "$new"/*.png "$folder"
sed -i -e "/^$begin\$/,/^$end\$/{/^$begin\$/r $table" -e "/^$begin\$/!{/^$end\$/!d}}" README.md
echo "ok     $seed pictures, $size bytes, in $folder"
