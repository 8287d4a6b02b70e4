#!/bin/bash
# The named networks on Fashion-MNIST: trained in the ordinary way, then robustly from there, fused, and put on
# a hundred chips each.  docs/repmlp.md and docs/vision-permutator.md show what comes out.
#
#     NEUROSIM_DATA=... studies/named_networks.sh runs/named      # hours on two cores; finished parts are kept
set -euo pipefail
OUT=${1:?expected the folder for the runs}
N=${NEUROSIM:-neurosim}
SETTINGS="--data fashion-mnist --set train.optimizer=adamw --set train.weight_decay=0.02"
ROBUST="--method noise --set method.eta=0.3 --lr 1e-3"
HALF="--set model.widths=[8,16,32]"

trained() { # NAME EPOCHS-ORDINARY EPOCHS-ROBUST LR MODEL...
  local name=$1 epochs=$2 more=$3 lr=$4
  shift 4
  $N train --model "$@" $SETTINGS --lr "$lr" --epochs "$epochs" --out "$OUT/$name" --resume
  $N train --model "$@" $SETTINGS $ROBUST --epochs "$more" --init "$OUT/$name" --out "$OUT/$name-robust" --resume
}

fused() { # NAME: both of its networks in their final form
  for run in "$OUT/$1" "$OUT/$1-robust"; do
    test -d "$run-fused" || $N fuse "$run" --out "$run-fused"
  done
}

on_chips() { # LIMIT RUN...: a ladder of mismatch, and phase-change memory over time
  local limit=$1
  shift
  $N sweep "$@" --hardware gaussian-mismatch --over device.relative_std=0.1,0.2,0.3,0.5 --chips 100 --limit "$limit"
  $N compare "$@" --hardware pcm-joshi-2020 --times 25s,1d,1y --chips 100 --limit "$limit"
}

trained repmlpnet 8 4 3e-3 repmlpnet-tiny
trained vip 12 5 2e-3 vip-tiny-28
trained pure 4 3 3e-3 repmlp-pure $HALF
trained conv 5 3 3e-3 repmlp-pure-conv --set model.widths=[16,32,64]
fused repmlpnet
fused pure

on_chips 1000 "$OUT"/repmlpnet{,-fused,-robust,-robust-fused}
on_chips 1000 "$OUT"/vip{,-robust}
on_chips 500 "$OUT"/pure{,-fused,-robust,-robust-fused}
on_chips 500 "$OUT"/conv{,-robust}

# The Permutator's branches, one at a time on chips: which one feels mismatch most?
for branch in mlp_h mlp_w mlp_c reweight.* proj; do
  $N evaluate "$OUT/vip" --hardware gaussian-mismatch --include "network.*.attn.$branch" --chips 100 --limit 1000 \
    --out "$OUT/vip-branches/${branch%%.*}"
done
