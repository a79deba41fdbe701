#!/usr/bin/env bash
# torch.randn: with one seed, a longer draw does not begin with a shorter one: the last 16 numbers are drawn anew.
#
# Versions: torch 2.15.0 (CPU), numpy 2.4.6.
# Guess before running: a generator is a stream, so randn(100) is the first 100 numbers of randn(1000) from the same
#   seed, as rand(100) is of rand(1000) and NumPy's standard_normal(100) of standard_normal(1000); at most an odd
#   number of values differs by one, since normal numbers come in pairs.
# Behaviour: where the length is no multiple of 16, its last 16 numbers are thrown away and replaced by later ones of
#   the stream; below 16 numbers another algorithm runs, and none agrees. Noise of an image that is cut out of one
#   draw for a whole batch therefore depends on the size of the batch.
# Source: https://docs.pytorch.org/docs/stable/generated/torch.randn.html, https://docs.pytorch.org/docs/stable/notes/randomness.html
# Output seen:
#   randn(100) against randn(1000)[:100]: equal 0..83, different 84..99
#   randn(96) against randn(1000)[:96]: all equal
#   randn(15) against randn(1000)[:15]: none equal
#   rand(100) against rand(1000)[:100]: all equal; numpy standard_normal: all equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch


def draw(sample, length):
    return sample(length, generator=torch.Generator().manual_seed(0))


def normal(length):
    return np.random.default_rng(0).standard_normal(length)


long = draw(torch.randn, 1000)
equal = (draw(torch.randn, 100) == long[:100]).tolist()
assert equal == [True] * 84 + [False] * 16, "behaviour changed"
print("randn(100) against randn(1000)[:100]: equal 0..83, different 84..99")
assert torch.equal(draw(torch.randn, 96), long[:96]), "behaviour changed"
print("randn(96) against randn(1000)[:96]: all equal")
assert not (draw(torch.randn, 15) == long[:15]).any(), "behaviour changed"
print("randn(15) against randn(1000)[:15]: none equal")
assert torch.equal(draw(torch.rand, 100), draw(torch.rand, 1000)[:100]), "behaviour changed"
assert np.array_equal(normal(100), normal(1000)[:100]), "behaviour changed"
print("rand(100) against rand(1000)[:100]: all equal; numpy standard_normal: all equal")
PYTHON
echo "as described"
