#!/usr/bin/env bash
# The pictures of the README, by the README's own commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
out=docs/gallery
python -c "from bench.gallery import hill; hill().save('$out/hill.png')"
python -c "
import trimesh
from bench.gallery import mesh
vase = mesh('vase')
trimesh.Trimesh(vase.vertices.round(4), vase.faces, process=False).export('$out/vase.obj', header='A vase', digits=4)"
fastsync wide "mountains at sunset" --width 1024 --method syncvc --seed 0 -o $out/wide.png
fastsync panorama "mountains in winter" --method stochsync --seed 1 -o $out/around.png
fastsync illusion "6" "9" --view rotate_180 --method syncvc --seed 1 -o $out/ambigram.png
fastsync compose "the sea at sunset" --mask $out/hill.png --prompt "a forest at sunset" --method syncvc --seed 1 \
  -o $out/scene.png
work=$(mktemp -d)
fastsync texture $out/vase.obj "blue tiles" --method syncvc --seed 1 --report -o $work/vase.glb
cp $work/vase.gif $out/
rm -r $work
