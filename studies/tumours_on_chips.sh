#!/bin/bash
# A tumour classifier on the features of a segmentation network, its trunk, its head or all of it on chips.
#
#     NEUROSIM_DATA=... OMP_NUM_THREADS=1 studies/tumours_on_chips.sh runs/pretext runs/tumours
set -euo pipefail
PRETEXT=${1:?expected the folder of the pretext runs}
OUT=${2:?expected the folder for the runs}
N=${NEUROSIM:-neurosim}
NET="--model mnet-classifier --set model.widths=[4,8,16] --set model.head_widths=[8,16,32]"
DATA="--data brain-tumour --per-class 200 --batch-size 32"

$N train $NET $DATA --epochs 30 --init trunk="$PRETEXT/brain-tumour-masks" --out "$OUT/ordinary" --resume
$N train $NET $DATA --epochs 15 --lr 5e-4 --init "$OUT/ordinary" --method noise --set method.eta=0.2 \
  --freeze '*norm*' --out "$OUT/robust" --resume
for part in all trunk head; do
  case $part in
    all) chosen=() ;;
    trunk) chosen=(--include 'trunk.*') ;;
    head) chosen=(--include 'head.*') ;;
  esac
  $N sweep "$OUT"/{ordinary,robust} --hardware gaussian-mismatch --over device.relative_std=0.1,0.2,0.3 --chips 30 \
    "${chosen[@]}" --out "$OUT/$part"
  $N compare "$OUT"/{ordinary,robust} --hardware pcm-joshi-2020 --times 25s,1y --chips 30 \
    "${chosen[@]}" --out "$OUT/$part"
done
