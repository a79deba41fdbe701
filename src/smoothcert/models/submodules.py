"""Parts of a model by their names in the network: `fc`, not `1.fc`."""

from collections.abc import Sequence

from torch import nn

from smoothcert.errors import InvalidArgumentError
from smoothcert.models.normalization import Normalize


def network_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the network behind a model's normalisation, and the prefix of its names.

    Args:
        model: any module.

    Example:
        >>> network_of(nn.Sequential(Normalize([0.5], [0.5]), nn.Flatten()))[0]
        '1.'
    """
    if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], Normalize):
        return "1.", model[1]
    return "", model


def parts_of(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the parts of a model's network that have the given names.

    Args:
        model: any module; the normalisation in front of a network is left out of names.
        names: names of parts, for example `fc` or `layer1.0`; a string is one name.

    Raises:
        InvalidArgumentError: if there is no such part; the message lists the outermost parts.

    Example:
        >>> from smoothcert.models import small_cnn
        >>> parts_of(small_cnn(10, (1, 8, 8), [0.3], [0.4]), ["fc"])
        [Linear(in_features=256, out_features=10, bias=True)]
    """
    names = [names] if isinstance(names, str) else names
    _, network = network_of(model)
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules or name == "":
            outermost = ", ".join(child for child, _ in network.named_children())
            raise InvalidArgumentError(f"Expected a part of the network, {outermost}; got {name!r}")
    return [modules[name] for name in names]


def names_below(model: nn.Module, parts: Sequence[str]) -> set[str]:
    """Return the names of all parameters and buffers in parts of a model's network.

    Args:
        model: any module.
        parts: names of parts; see `parts_of`.

    Example:
        >>> from smoothcert.models import small_cnn
        >>> sorted(names_below(small_cnn(10, (1, 8, 8), [0.3], [0.4]), ["fc"]))
        ['1.fc.bias', '1.fc.weight']
    """
    parts = [parts] if isinstance(parts, str) else parts
    prefix, _ = network_of(model)
    return {
        f"{prefix}{part}.{name}"
        for part, module in zip(parts, parts_of(model, parts), strict=True)
        for name in module.state_dict()
    }
