#!/usr/bin/env bash
# torchmetrics.MeanMetric: nan_strategy changes the weights of a weighted mean, also where no value is NaN.
#
# Versions: torchmetrics 1.9.0, torch 2.15.0.
# Guess before running: nan_strategy concerns NaN only. Without NaN every strategy gives the same weighted mean.
#   "disable" skips the check for NaN, so that a NaN reaches the result. A number replaces NaN in a copy of the
#   values, and the weights stay.
# Behaviour: with nan_strategy="disable" the weights are dropped without a warning: the mean of [1, 4] with weights
#   [3, 1] is 2.5 and not 1.75, also for weights that are passed as numbers, one update at a time. With a number, the
#   weight of a replaced value becomes 1, and both tensors of the caller are overwritten in place: a second metric
#   that is updated with the same tensors sees no NaN any more. "disable" is the strategy that avoids a
#   synchronization of a GPU per update, so it is chosen for speed; batches of unequal size then count equally.
# Source: https://lightning.ai/docs/torchmetrics/stable/aggregation/mean.html
# Output seen:
#   warn, ignore, error, 0.0: 1.75   disable: 2.5
#   nan_strategy=0.0, values [1, nan], weights [1, 2]: mean 0.5 (with weight 2: 0.3333)
#   the caller's values are now [1.0, 0.0], the weights [1.0, 1.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" torch==2.15.0 torchmetrics==1.9.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics import MeanMetric

means = {}
for strategy in ("warn", "ignore", "error", 0.0, "disable"):
    metric = MeanMetric(nan_strategy=strategy)
    metric.update(torch.tensor([1.0, 4.0]), weight=torch.tensor([3.0, 1.0]))
    one_by_one = MeanMetric(nan_strategy=strategy)
    one_by_one.update(1.0, weight=3.0)
    one_by_one.update(4.0, weight=1.0)
    assert metric.compute() == one_by_one.compute(), "behaviour changed"
    means[strategy] = float(metric.compute())
assert means == {"warn": 1.75, "ignore": 1.75, "error": 1.75, 0.0: 1.75, "disable": 2.5}, "behaviour changed"
print("warn, ignore, error, 0.0: 1.75   disable: 2.5")

values, weights = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])
metric = MeanMetric(nan_strategy=0.0)
metric.update(values, weight=weights)
assert float(metric.compute()) == 0.5, "behaviour changed"
print("nan_strategy=0.0, values [1, nan], weights [1, 2]: mean 0.5 (with weight 2: 0.3333)")
assert values.tolist() == [1.0, 0.0], "behaviour changed"
assert weights.tolist() == [1.0, 1.0], "behaviour changed"
print(f"the caller's values are now {values.tolist()}, the weights {weights.tolist()}")
PYTHON
echo "as described"
