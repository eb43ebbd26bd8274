#!/usr/bin/env bash
# What a CUDA machine with PyTorch makes of YOLOv12, in at most ten minutes and without a network:
#
#     bash benchmarks/gpu.sh [WHEELS] [options of gpu.py]
#
# WHEELS is a folder of wheels of what the machine lacks; nothing is installed outside of a folder that is removed again.
# `pip wheel --wheel-dir WHEELS .` makes one elsewhere, for the same Python; PyTorch's and NVIDIA's in it are not needed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -d "${1:-}" ]; then
  find "$1" -name '*.whl' ! -name 'torch*' ! -name 'nvidia*cu1*' ! -name 'triton*' -print0 |
    xargs -0 python -m pip install --quiet --no-index --no-deps --target "$work"
  shift
fi
export PYTHONPATH="$work:$root" YOLO_OFFLINE=true YOLO_AUTOINSTALL=false YOLO_VERBOSE=false
code=0
timeout "$((600 - SECONDS))" python "$root/benchmarks/gpu.py" "$@" || code=$?
if [ "$code" = 124 ]; then
  echo "Ten minutes are over; the record has what was measured until then" >&2
fi
exit "$code"
