#!/usr/bin/env bash
# torch.special.ndtr in float32 is exactly 0 from z = -5.5 on, and 4 % off at z = -5; log_ndtr of the same z is right.
#
# Versions: torch 2.15.0 (CPU), scipy 1.17.1, numpy 2.4.6.
# Guess before running: the special function is there because 1 - Φ cancels; its relative error in the lower tail is
#   a few units of float32 (1e-6), as SciPy's float32 ndtr has it, down to where float32 ends (z = -13).
# Behaviour: it is (1 + erf(z/√2))/2 in the tensor's own precision, so that the lower tail is a multiple of 2^-24.
#   torch.distributions.Normal.cdf is the same, and Normal.icdf is -inf below p = 3e-8 (it goes through 2p - 1),
#   while torch.special.log_ndtr and torch.special.ndtri are accurate there. A probit computed as icdf(cdf(z)) loses
#   what a smoothed classifier's confident images consist of; exp(log_ndtr(z)) and ndtri do not.
# Source: https://docs.pytorch.org/docs/stable/special.html#torch.special.ndtr
# Output seen:
#   z=-4.0  ndtr 3.167987e-05  exp(log_ndtr) 3.167126e-05  scipy float32 3.167124e-05
#   z=-5.0  ndtr 2.980232e-07  exp(log_ndtr) 2.866515e-07  scipy float32 2.866516e-07
#   z=-5.5  ndtr 0.000000e+00  exp(log_ndtr) 1.898959e-08  scipy float32 1.898956e-08
#   z=-6.0  ndtr 0.000000e+00  exp(log_ndtr) 9.865897e-10  scipy float32 9.865877e-10
#   p=1e-08  Normal.icdf -inf  ndtri -5.612001
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" \
  torch==2.15.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from scipy import special

for z in (-4.0, -5.0, -5.5, -6.0):
    tensor = torch.tensor(z)
    answer = torch.special.ndtr(tensor).item()
    other = torch.special.log_ndtr(tensor).exp().item()
    scipy = float(special.ndtr(np.float32(z)))
    print(f"z={z}  ndtr {answer:.6e}  exp(log_ndtr) {other:.6e}  scipy float32 {scipy:.6e}")
    exact = special.ndtr(float(z))
    assert abs(other / exact - 1) < 1e-5 and abs(scipy / exact - 1) < 1e-5
    assert answer == torch.distributions.Normal(0.0, 1.0).cdf(tensor).item()
    assert answer == 0.0 if z < -5.4 else abs(answer / exact - 1) > 1e-4, "behaviour changed"
p = torch.tensor(1e-8)
icdf, ndtri = torch.distributions.Normal(0.0, 1.0).icdf(p).item(), torch.special.ndtri(p).item()
print(f"p=1e-08  Normal.icdf {icdf}  ndtri {ndtri:.6f}")
assert icdf == float("-inf") and abs(ndtri - special.ndtri(1e-8)) < 1e-5, "behaviour changed"
PYTHON
echo "as described"
