"""BatchNorm folded into convolutions while a network is in eval mode."""

import logging
import operator
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

logger = logging.getLogger(__name__)

PURE = ("smoothcert", "timm", "torch", "torchvision")
"""Packages whose networks depend only on their weights and input. Anything else that a forward pass
reads or writes would be frozen by tracing."""
KINDS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
"""The BatchNorm that can be folded into each convolution."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Folding:
    """A network with each BatchNorm folded into the convolution before it.

    A layer that is called twice, or whose output is used elsewhere, is not folded.

    Args:
        network: must be traceable by torch.fx, else the error of tracing is raised; the result
            shares all its other parts.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> len(Folding(network).parts)
        1
    """

    def __init__(self, network: nn.Module) -> None:
        self.traced = fx.symbolic_trace(network)
        pairs = _pairs(self.traced)
        self.parts = [
            (
                name,
                cast("nn.Conv2d", network.get_submodule(name)),
                cast("nn.BatchNorm2d", network.get_submodule(str(norm.target))),
            )
            for name, norm in pairs
        ]
        for _, norm in pairs:
            norm.replace_all_uses_with(cast("fx.Node", norm.args[0]))
            self.traced.graph.erase_node(norm)
        self.traced.delete_all_unused_submodules()
        self.traced.recompile()

    def refreshed(self) -> nn.Module:
        """Return the folded network with the network's current weights and statistics."""
        for name, convolution, norm in self.parts:
            self.traced.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
        return self.traced


class _CachedFolding:
    """A network's folding, valid while the network keeps its modules and tensors.

    Attributes:
        folding: None where there is nothing to fold, or the forward pass cannot be traced.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parts = [ref(part) for part in _modules_and_tensors(network)]
        self.folding: Folding | None = None
        try:
            folding = Folding(network)
        except Exception as error:
            # Forward passes that cannot be traced run unchanged.
            logger.debug("BatchNorm is not folded: %s", error)
        else:
            self.folding = folding if folding.parts else None

    def holds_for(self, network: nn.Module) -> bool:
        then, now = [part() for part in self._parts], _modules_and_tensors(network)
        return len(then) == len(now) and all(map(operator.is_, then, now))


_cache: WeakKeyDictionary[nn.Module, _CachedFolding] = WeakKeyDictionary()


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """Return a network in eval mode with BatchNorm folded into its convolutions, where possible.

    For the passes of an attack, which spends a third of its time in BatchNorm if layers are thin.
    Folding is exact up to rounding errors. The network is returned unchanged if it has modules of
    packages other than `PURE`, cannot be traced, is compiled, has hooks, or is in training mode.

    Args:
        network: in eval mode; neither it nor its parts are changed.

    Returns:
        A network that shares all parameters but those of the folded layers, which are
        computed now: call again after each step of the optimizer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> [type(part).__name__ for part in folded(network).children()]
        ['Conv2d', 'ReLU']
    """
    if not _is_plain(network):
        return network
    if network not in _cache or not _cache[network].holds_for(network):
        _cache[network] = _CachedFolding(network)
    folding = _cache[network].folding
    return network if folding is None else folding.refreshed()


def _modules_and_tensors(network: nn.Module) -> list[Any]:
    return [*network.modules(), *network.parameters(), *network.buffers()]


def _is_plain(network: nn.Module) -> bool:
    """Return whether tracing captures the entire forward pass, and no hook observes it."""
    return network._compiled_call_impl is None and not any(
        type(part).__module__.partition(".")[0] not in PURE
        or any(getattr(part, hooks) for hooks in HOOKS)
        or part.training
        or "forward" in vars(part)
        for part in network.modules()
    )


def _pairs(traced: fx.GraphModule) -> list[tuple[str, fx.Node]]:
    """Return the names of convolutions that one BatchNorm follows, with the BatchNorm's node."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module"):
            continue
        convolution, norm = (traced.get_submodule(str(call.target)) for call in (before, node))
        alone = len(before.users) == 1 and all(
            targets.count(call.target) == 1 for call in (before, node)
        )
        if alone and KINDS.get(type(convolution)) is type(norm) and norm.track_running_stats:
            pairs.append((str(before.target), node))
    return pairs
