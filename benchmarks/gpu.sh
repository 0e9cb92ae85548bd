#!/usr/bin/env bash
# All that is worth measuring on one GPU, in about nine minutes, as one table; on a machine without, the CPU in small.
#   benchmarks/gpu.sh [--seconds 520] [--output FILE] [--pictures N] [--backbones resnet50,densenet121,vit_b_16]
# PYTHON=... names the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}" TLEARN_OFFLINE=1
exec "${PYTHON:-python3}" "$here/gpu.py" "$@"
