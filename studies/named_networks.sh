#!/bin/bash
# The named networks on Fashion-MNIST: trained in the ordinary way, then robustly from there, fused, and put on
# chips.  docs/repmlp.md and docs/vision-permutator.md show what comes out.
#
#     NEUROSIM_DATA=... OMP_NUM_THREADS=1 studies/named_networks.sh runs/named   # about 3 hours; resumes where it stopped
set -euo pipefail
OUT=${1:?expected the folder for the runs}
N=${NEUROSIM:-neurosim}
SETTINGS="--data fashion-mnist --set train.optimizer=adamw --set train.weight_decay=0.02"

trained() { # NAME EPOCHS LR MODEL...
  local name=$1 epochs=$2 lr=$3
  shift 3
  $N train --model "$@" $SETTINGS --lr "$lr" --epochs "$epochs" --out "$OUT/$name" --resume
}

robust() { # NAME EPOCHS MODEL...: from the ordinary network, its batch normalisations kept still
  local name=$1 epochs=$2
  shift 2
  $N train --model "$@" $SETTINGS --lr 1e-3 --epochs "$epochs" --method noise --set method.eta=0.3 \
    --init "$OUT/$name" --out "$OUT/$name-robust" --resume
}

fused() { # NAME: both of its networks in their final form
  for run in "$OUT/$1" "$OUT/$1-robust"; do
    test -d "$run-fused" || $N fuse "$run" --out "$run-fused"
  done
}

ladder() { # RUN...
  $N sweep "$@" --hardware gaussian-mismatch --over device.relative_std=0.1,0.2,0.3,0.5 --chips 30 --limit 500
}

on_chips() { # RUN...: a hundred chips of 30 % mismatch, and phase-change memory over a year
  $N compare "$@" --hardware gaussian-mismatch --chips 100 --limit 500 --out "$OUT/$(basename "$1")-100"
  $N compare "$@" --hardware pcm-joshi-2020 --times 25s,1y --chips 30 --limit 500 --out "$OUT/$(basename "$1")-pcm"
}

PURE="repmlp-pure --set model.widths=[8,16,32]"
CONV="repmlp-pure-conv --set model.widths=[16,32,64]"
trained repmlpnet 8 3e-3 repmlpnet-tiny
trained vip 12 2e-3 vip-tiny-28
trained pure 4 3e-3 $PURE
trained conv 5 3e-3 $CONV
robust repmlpnet 3 repmlpnet-tiny --freeze '*bn*' --freeze 'head_norm.*'
robust vip 5 vip-tiny-28
robust pure 3 $PURE --freeze '*bn*'
robust conv 3 $CONV --freeze '*bn*'
fused repmlpnet
fused pure

ladder "$OUT"/repmlpnet{,-fused,-robust,-robust-fused}
ladder "$OUT"/vip{,-robust}
on_chips "$OUT"/repmlpnet{,-fused,-robust,-robust-fused}
on_chips "$OUT"/vip{,-robust}
on_chips "$OUT"/conv{,-robust}
on_chips "$OUT"/pure{,-fused,-robust,-robust-fused}

# Batch normalisations with new statistics on each chip; one scale a column instead of one a layer.
$N compare "$OUT"/repmlpnet{,-fused,-robust} --hardware gaussian-mismatch --chips 20 --limit 500 \
  --batchnorm re-estimated --out "$OUT/bn"
$N compare "$OUT"/repmlpnet{,-fused} --hardware pcm-joshi-2020 --set array.scaling=per-column --times 25s,1y \
  --chips 30 --limit 500 --out "$OUT/columns"

# The Permutator's branches, one at a time on chips: which one feels mismatch most?
for branch in mlp_h mlp_w mlp_c reweight.* proj; do
  $N evaluate "$OUT/vip" --hardware gaussian-mismatch --include "network.*.attn.$branch" --chips 50 --limit 500 \
    --out "$OUT/vip-branches/${branch%%.*}"
done
