#!/usr/bin/env bash
# The comparisons behind docs/results/camvid.md and docs/results/nuclei.md: same data, seeds, steps and batches for all.
#
#   benchmarks/evidence.sh SET DATA WEIGHTS RUNS [KEY=VALUE ...]
#
# SET      camvid-23, camvid-46, nuclei-12: every method, three seeds;
#          camvid-23-full, camvid-46-full: the same with images of full size and crops of 320, for a GPU;
#          camvid-rare: what is there against the loss of rare classes; camvid-prototypes: options of the prototype branch
# DATA     folder with train/ and val/, each with images/ and masks/
# WEIGHTS  ImageNet weights of mobilenetv2_100, or `pretrained`
# RUNS     where runs and results go; the same command goes on where it was interrupted
#
# Two runs at a time, one thread each, in bf16: set JOBS and THREADS (all runs together) for another machine.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
set_=$1 data=$2 weights=$3 runs=$4
shift 4

recipe=camvid-mobilenetv2 labels=23
case $set_ in
  camvid-46 | camvid-46-full) labels=46 ;;
  nuclei-12) recipe=nuclei-mobilenetv2 labels=12 ;;
  camvid-23 | camvid-23-full | camvid-rare | camvid-prototypes) ;;
  *) echo "$set_: no such set; see the top of $0" >&2; exit 2 ;;
esac
common=("data.root=$data" "model.weights=$weights" "data.labeled_count=$labels" train.workers=0 train.precision=bf16)
case $set_ in *-full) common+=(data.input_scale=1.0 train.crop=320) ;; esac

plain='method.name=supervised train.logit_adjustment=0 train.class_aware_share=0'
case $set_ in
  camvid-rare) variants=(
    --variant "plain: $plain"
    --variant "class-aware: $plain train.class_aware_share=0.5"
    --variant "copy-paste: $plain train.copy_paste_probability=0.5"
    --variant "adjusted-0.5: $plain train.logit_adjustment=0.5"
    --variant "adjusted-1: $plain train.logit_adjustment=1.0"
    --variant "adjusted-0.25-class-aware-0.25: $plain train.logit_adjustment=0.25 train.class_aware_share=0.25"
    --variant "adjusted-0.25-class-aware-0.5: $plain train.logit_adjustment=0.25 train.class_aware_share=0.5"
    --variant "adjusted-0.5-class-aware-0.25: $plain train.logit_adjustment=0.5 train.class_aware_share=0.25"
    --variant "adjusted-0.5-class-aware-0.5: $plain train.logit_adjustment=0.5 train.class_aware_share=0.5"
  ) ;;
  camvid-prototypes) p=method.prototypes; variants=(
    --methods prototype,fixmatch
    --variant "labels-of-the-linear-head: $p.pseudo_label_share=0"
    --variant "labels-of-both-heads: $p.pseudo_label_share=0.5"
    --variant "not-class-balanced: $p.class_balanced=false"
  ) ;;
  camvid-*) variants=(
    --variant "plain: $plain"
    --methods supervised,fixmatch,unimatch,corrmatch,prototype
  ) ;;
  *) variants=(--methods supervised,fixmatch,unimatch,corrmatch,prototype) ;;
esac
OMP_NUM_THREADS=${THREADS:-2} exec "${PROTOSEG:-protoseg}" compare "$recipe" "${common[@]}" "$@" \
  "${variants[@]}" --seeds "${SEEDS:-3}" --jobs "${JOBS:-2}" --run "$runs"
