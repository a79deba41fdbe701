"""What a training has written, before and after it is resumed."""

import torch

from smoothcert.models import read_checkpoint


def last_of(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def states_of(checkpoint):
    """Return all tensors of weights, averages and the optimizer."""
    kinds = "state_dict", "current_model_state", "averaging_state"
    tensors = [v for kind in kinds for v in checkpoint.get(kind, {}).values()]
    for state in checkpoint["optimizer_states"]:
        tensors += [t for each in state["state"].values() for t in each.values() if t is not None]
    return [torch.as_tensor(tensor) for tensor in tensors]


def metrics_of(folder):
    """Return what was logged, but for how fast it was."""
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    names = header.split(",")
    kept = [i for i, name in enumerate(names) if "per_second" not in name]
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    return sorted(tuple((names[i], row[names[i]]) for i in kept if row[names[i]]) for row in rows)
