#!/usr/bin/env bash
# torch.set_float32_matmul_precision("medium") lets a CPU multiply float32 matrices in bfloat16.
#
# Versions: torch 2.15.0, numpy 2.4.6; a CPU that multiplies bfloat16 (avx512_bf16 or amx_bf16 in /proc/cpuinfo).
# Guess before running: as its page says, the setting "currently only affects one native device type: CUDA"; a line
#   that training scripts carry to please Lightning's advice changes nothing where no GPU is.
# Behaviour: on such a CPU the product of float32 matrices is off by 1e-2 relative to its terms instead of 1e-6, and
#   its type is still float32. "high" changes nothing there. Anything that must be exact to float32 (a vote, a
#   reference value) has to set the precision itself.
# Source: https://docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html
# Output seen:
#   highest  largest error 4.0e-05  float32
#   high     largest error 4.0e-05  float32
#   medium   largest error 1.7e-01  float32
set -euo pipefail
if ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then
  echo "this CPU does not multiply bfloat16: nothing to show"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

source = torch.Generator().manual_seed(0)
a, b = (torch.randn(256, 256, generator=source) for _ in range(2))
exact = a.double() @ b.double()
errors = {}
for precision in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(precision)
    product = a @ b
    errors[precision] = (product - exact).abs().max().item()
    print(f"{precision:<8} largest error {errors[precision]:.1e}  {str(product.dtype)[6:]}")
assert errors["highest"] < 1e-3 and errors["high"] < 1e-3, "behaviour changed"
assert errors["medium"] > 1e-2, "behaviour changed"
PYTHON
echo "as described"
