#!/usr/bin/env bash
# torch.backends.mkldnn.fp32_precision: reading it asks about mkldnn, writing it changes the setting of every backend.
#
# Versions: torch 2.15.0.
# Guess before running: the interface is a tree (all backends, a backend, an operation of a backend), as its page draws
#   it; writing a backend's node changes this backend and leaves the root and the other backends as they are, as
#   writing `torch.backends.cudnn.fp32_precision` does.
# Behaviour: writing `torch.backends.mkldnn.fp32_precision` writes the root, `torch.backends.fp32_precision`, which the
#   other backends inherit. A script that lowers the precision of its CPU layers ("bf16") therefore changes what every
#   backend falls back on, and one that restores "ieee" afterwards forbids the GPU what had been allowed.
#   Nodes of operations (`torch.backends.mkldnn.matmul.fp32_precision`) are written where they are.
# Source: https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html,
#   https://docs.pytorch.org/docs/stable/backends.html
# Output seen:
#   before                        root none  mkldnn none  cudnn none
#   cudnn.fp32_precision = tf32   root none  mkldnn none  cudnn tf32
#   mkldnn.fp32_precision = bf16  root bf16  mkldnn bf16  cudnn tf32
#   mkldnn.fp32_precision = ieee  root ieee  mkldnn ieee  cudnn tf32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from torch import backends


def seen():
    return backends.fp32_precision, backends.mkldnn.fp32_precision, backends.cudnn.fp32_precision


def show(what, expected):
    print(f"{what:<29} root {seen()[0]}  mkldnn {seen()[1]}  cudnn {seen()[2]}")
    assert seen() == expected, f"behaviour changed: {seen()}"


show("before", ("none", "none", "none"))
backends.cudnn.fp32_precision = "tf32"
show("cudnn.fp32_precision = tf32", ("none", "none", "tf32"))
backends.mkldnn.fp32_precision = "bf16"
show("mkldnn.fp32_precision = bf16", ("bf16", "bf16", "tf32"))
backends.mkldnn.fp32_precision = "ieee"
show("mkldnn.fp32_precision = ieee", ("ieee", "ieee", "tf32"))
PYTHON
echo "as described"
