#!/usr/bin/env bash
# scipy.special.bdtri: wrong by a factor of 172 for a few events in 100,000 draws, without a warning.
#
# Versions: scipy 1.17.1, numpy 2.4.6, mpmath 1.4.1.
# Guess before running: `bdtri(k, n, y)` is documented as the inverse of `bdtr` with respect to p, so it is
#   Clopper and Pearson's upper bound on p after k events at level y, as good as `betainccinv(k + 1, n - k, y)`
#   to a dozen digits; where it cannot be computed it gives NaN, or an error under `errstate(all="raise")`.
# Behaviour: for n from some 30,000 on and y = 1e-6, k = 3 to 9 give about 0.037 instead of 2e-4 and neighbours
#   (k = 2 and k = 10 are right). `bdtr` of the answer is 0, not y. Nothing is raised. `betainccinv` is right.
#   Levels of 1e-6 and below are what α = .001 becomes over a thousand classes or looks.
# Source: https://docs.scipy.org/doc/scipy/reference/generated/scipy.special.bdtri.html
# Output seen:
#   k=2  bdtri 0.000191275  betainccinv 0.000191275  mpmath 0.000191275
#   k=3  bdtri 0.0367959    betainccinv 0.000213485  mpmath 0.000213485
#   k=9  bdtri 0.0348943    betainccinv 0.000327065  mpmath 0.000327065
#   k=10 bdtri 0.000344237  betainccinv 0.000344237  mpmath 0.000344237
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" \
  scipy==1.17.1 numpy==2.4.6 mpmath==1.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import mpmath
from scipy import special

mpmath.mp.dps = 30
n, level = 100_000, 1e-6


def upper_bound(k):
    """Solve P(X <= k) = level by bisection, the sum written out at 30 digits."""
    low, high = mpmath.mpf(k) / n, mpmath.mpf("0.01")
    for _ in range(60):
        p = (low + high) / 2
        cdf = sum(mpmath.binomial(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        low, high = (p, high) if cdf > level else (low, p)
    return float(low)


wrong = []
for k in (2, 3, 9, 10):
    with special.errstate(all="raise"):
        answer = special.bdtri(k, n, level)
    other, exact = special.betainccinv(k + 1, n - k, level), upper_bound(k)
    print(f"k={k:<2} bdtri {answer:<11.6g} betainccinv {other:<12.6g} mpmath {exact:.6g}")
    assert abs(other / exact - 1) < 1e-9
    if abs(answer / exact - 1) > 1e-6:
        wrong.append(k)
        assert answer > 50 * exact and special.bdtr(k, n, answer) == 0.0
assert wrong == [3, 9], f"behaviour changed: wrong at {wrong}"
PYTHON
echo "as described"
