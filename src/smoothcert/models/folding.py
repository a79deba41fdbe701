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
"""Packages whose networks answer from their weights and input alone. What else a forward pass reads
or writes, tracing would fix."""


KINDS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
"""Which BatchNorm a convolution can take up."""


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Folding:
    """A network's own parts, with each BatchNorm behind a convolution taken up by it.

    A layer that is called twice, or whose output something else sees, is left as it is.

    Args:
        network: shares every other part with the result; must be traceable by torch.fx, or what
            tracing raises is raised.

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
        """Return the folded network at the weights and statistics that the network has now."""
        for name, convolution, norm in self.parts:
            self.traced.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
        return self.traced


class _Known:
    """What is known of a network while it has the modules and tensors that it has now.

    Attributes:
        folding: None where there is nothing to fold, or the forward pass cannot be traced.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parts = [ref(part) for part in _modules_and_tensors(network)]
        self.folding: Folding | None = None
        try:
            folding = Folding(network)
        except Exception as error:
            # Not every forward pass can be traced; it runs as it is then.
            logger.debug("BatchNorm is not folded: %s", error)
        else:
            self.folding = folding if folding.parts else None

    def holds_for(self, network: nn.Module) -> bool:
        then, now = [part() for part in self._parts], _modules_and_tensors(network)
        return len(then) == len(now) and all(map(operator.is_, then, now))


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """Return a network in eval mode with BatchNorm folded into its convolutions, where that works.

    For the passes of an attack, which spends a third of its time in BatchNorm where layers are
    thin. Folding is exact up to rounding errors. The network comes back as it is where it has
    modules of other packages than `PURE`, cannot be traced, is compiled or has hooks, or trains.

    Args:
        network: in eval mode; neither it nor its parts are changed.

    Returns:
        A network that shares all parameters but those of the folded layers, whose values are
        taken now: ask again after a step of the optimizer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> [type(part).__name__ for part in folded(network).children()]
        ['Conv2d', 'ReLU']
    """
    if not _is_plain(network):
        return network
    if network not in _known or not _known[network].holds_for(network):
        _known[network] = _Known(network)
    folding = _known[network].folding
    return network if folding is None else folding.refreshed()


def _modules_and_tensors(network: nn.Module) -> list[Any]:
    return [*network.modules(), *network.parameters(), *network.buffers()]


def _is_plain(network: nn.Module) -> bool:
    """Return whether tracing sees all that a forward pass does, and nothing listens to it."""
    return network._compiled_call_impl is None and not any(
        type(part).__module__.partition(".")[0] not in PURE
        or any(getattr(part, hooks) for hooks in HOOKS)
        or part.training
        or "forward" in vars(part)
        for part in network.modules()
    )


def _pairs(traced: fx.GraphModule) -> list[tuple[str, fx.Node]]:
    """Return the names of convolutions that one BatchNorm follows, and its node."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module"):
            continue
        convolution, norm = (traced.get_submodule(str(at.target)) for at in (before, node))
        alone = len(before.users) == 1 and all(
            targets.count(at.target) == 1 for at in (before, node)
        )
        if alone and KINDS.get(type(convolution)) is type(norm) and norm.track_running_stats:
            pairs.append((str(before.target), node))
    return pairs
