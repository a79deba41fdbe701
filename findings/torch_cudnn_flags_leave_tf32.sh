#!/usr/bin/env bash
# torch.backends.cudnn.flags(allow_tf32=False): convolutions stay in TensorFloat-32 inside it, where a script used the
# newer switch, and the error comes only at its end.
#
# Versions: torch 2.15.0 (no GPU needed: only the switches are read).
# Guess before running: torch 2.9 and later have two interfaces to TensorFloat-32 that may not be mixed, so either the
#   context manager switches it off, or it raises when it is entered, before anything is computed.
# Behaviour: after `torch.backends.fp32_precision = "tf32"`, entering succeeds; inside,
#   `torch.backends.cudnn.conv.fp32_precision` still says tf32, so a passage that was meant to be exact is not. The error
#   "cuDNN conv and cuDNN RNN have different TF32 flags" is raised on leaving, when the figures are made already, and
#   the older switch stays changed.
# Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (TensorFloat-32 on Ampere and later devices),
#   https://docs.pytorch.org/docs/stable/backends.html
# Output seen:
#   inside: convolutions tf32
#   on leaving: RuntimeError: PyTorch is checking whether allow_tf32 is enabled for cuDNN without a specific operator name
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.backends.fp32_precision = "tf32"
inside = error = None
try:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        inside = torch.backends.cudnn.conv.fp32_precision
except RuntimeError as raised:
    error = str(raised)
print(f"inside: convolutions {inside}")
print(f"on leaving: RuntimeError: {str(error).partition(',')[0]}")
assert inside == "tf32", "behaviour changed"
assert error is not None and "different TF32 flags" in error, "behaviour changed"
PYTHON
echo "as described"
