"""Which names of a file's weights mean which names of a network.

Libraries put names of their own in front of a network's: Lightning the attribute that holds it,
`DataParallel`, `AveragedModel` and `torch.compile` their wrapper, `nn.Sequential` a number where
normalisation comes first. Whatever stands in front of all of a network's names is taken off.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smoothcert.errors import MismatchError

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch adds inside names, where a part of a network is wrapped."""
UNUSED = "num_batches_tracked"
"""A counter that no forward pass in eval mode reads; files of 2018 do not have it."""


@dataclass(frozen=True)
class Match:
    """A file's weights by a network's names.

    Names of `lacking`, `foreign` and `misshapen` come without what stands in front of all names of
    the network, or of the file.

    Attributes:
        weights: the tensors that have a place in the network, by its full names.
        lacking: names of the network that the file does not have.
        foreign: names of the file that the network does not have.
        misshapen: names whose tensors have another shape in the file.
        prefix: what the file has in front of these names.
        front: what the network has in front of them.
        aside: full names of the file without that prefix; they are no part of the network.
        renamed: what the network calls the parts that the file calls by other names.
    """

    weights: dict[str, Tensor]
    lacking: list[str]
    foreign: list[str]
    misshapen: list[str]
    prefix: str
    aside: list[str]
    renamed: dict[str, str]
    front: str = ""

    @property
    def fits(self) -> bool:
        """Whether all of the network's tensors are there, in their shapes, and no others."""
        return not (self.lacking or self.foreign or self.misshapen)


def match_names(
    own: Mapping[str, Tensor], saved: Mapping[str, Tensor], fresh: AbstractSet[str] = frozenset()
) -> Match:
    """Find the prefix under which a file's weights fit a network best.

    Where the network and the file call the same parts by other names (`fc` and `linear`), all
    tensors have the same shapes in the same order, and no other part has these names, the parts
    are taken for the same.

    Args:
        own: the network's `state_dict`; tensors of the meta device are enough.
        saved: the file's tensors by name.
        fresh: names of the network that the file need not have, and whose tensors are not taken.

    Raises:
        MismatchError: if two networks in the file fit, and differ.

    Example:
        >>> own = {"1.fc.weight": torch.zeros(2, 3), "1.head.bias": torch.zeros(2)}
        >>> saved = {f"net.module.{name[2:]}": tensor for name, tensor in own.items()}
        >>> match = match_names(own, saved | {"epoch": torch.zeros(1)})
        >>> match.fits, match.prefix, match.aside
        (True, 'net.module.', ['epoch'])
    """
    front = _common_prefix(own)
    bare = {name.removeprefix(front): tensor for name, tensor in own.items()}
    kept = {name.removeprefix(front) for name in fresh}
    candidates = [
        _match(bare, names, prefix, kept)
        for names in _readings(saved)
        for prefix in _prefixes(names, bare)
    ]
    best = max(candidates, key=_rank)
    _check_only(best, [each for each in candidates if each.fits])
    weights = {front + name: tensor for name, tensor in best.weights.items()}
    return replace(best, weights=weights, front=front)


def _common_prefix(names: Iterable[str]) -> str:
    """Return what stands in front of all names, up to a dot."""
    parts = [name.split(".")[:-1] for name in names]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return "".join(f"{part}." for part in common)


def _readings(saved: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """Return the weights by their names, and by names without the wrappers inside."""
    plain = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in saved.items()
    }
    # Where two names become one, wrappers are what tells two networks apart.
    return [saved, plain] if len(plain) == len(saved) and plain.keys() != saved.keys() else [saved]


def _prefixes(names: Iterable[str], bare: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes in front of most of a network's names."""
    counts = Counter()
    for name in names:
        parts = name.split(".")
        for count in range(len(parts)):
            if ".".join(parts[count:]) in bare:
                counts["".join(f"{part}." for part in parts[:count])] += 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if count == most] or [_common_prefix(names)]


def _match(
    bare: Mapping[str, Tensor], names: Mapping[str, Tensor], prefix: str, kept: AbstractSet[str]
) -> Match:
    inside = {n.removeprefix(prefix): each for n, each in names.items() if n.startswith(prefix)}
    renamed = _renamed(bare, inside, kept)
    inside = {
        ".".join(renamed.get(part, part) for part in name.split(".")): tensor
        for name, tensor in inside.items()
    }
    weights = {n: each for n, each in inside.items() if n in bare and n not in kept}
    return Match(
        weights,
        lacking=sorted(n for n in bare.keys() - inside.keys() - kept if not n.endswith(UNUSED)),
        foreign=sorted(inside.keys() - bare.keys()),
        misshapen=[n for n, each in weights.items() if each.shape != bare[n].shape],
        prefix=prefix,
        aside=[name for name in names if not name.startswith(prefix)],
        renamed=renamed,
    )


def _renamed(
    bare: Mapping[str, Tensor], inside: Mapping[str, Tensor], kept: AbstractSet[str]
) -> dict[str, str]:
    """Return the network's words for a file's, if all that does not fit is a matter of words."""
    ours = [n for n in bare if n not in inside and not n.endswith(UNUSED)]
    theirs = [n for n in inside if n not in bare and not n.endswith(UNUSED)]
    if len(ours) != len(theirs):
        return {}
    words: dict[str, str] = {}
    for own, other in zip(ours, theirs, strict=True):
        pairs = list(zip(other.split("."), own.split("."), strict=False))
        if other.count(".") != own.count(".") or not (
            own in kept or inside[other].shape == bare[own].shape
        ):
            return {}
        for word, meaning in pairs:
            if word != meaning and words.setdefault(word, meaning) != meaning:
                return {}
    settled = {part for name in bare.keys() & inside.keys() for part in name.split(".")}
    both = [*words, *words.values()]
    unclear = len(set(both)) < len(both) or settled & set(both) or any(map(str.isdigit, both))
    return {} if unclear else words


def _rank(match: Match) -> tuple[int, int]:
    fitting = len(match.weights) - len(match.misshapen)
    return fitting, -len(match.lacking) - len(match.foreign)


def _check_only(best: Match, fitting: Iterable[Match]) -> None:
    for other in fitting:
        if any(not torch.equal(best.weights[n], each) for n, each in other.weights.items()):
            first, second = sorted((best.prefix, other.prefix))
            raise MismatchError(
                f"Expected one network, got two that fit, under {first!r} and {second!r}: save the "
                "state_dict of the one that is meant alone"
            )
