"""Match the names of a file's weights with the names of a network.

Libraries add prefixes to a network's names: Lightning the attribute that contains it,
`DataParallel`, `AveragedModel` and `torch.compile` their wrapper, `nn.Sequential` a number where
normalisation comes first. A prefix of all of a network's names is removed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from smoothcert.errors import MismatchError

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that torch inserts where a part of a network is wrapped."""
UNUSED = "num_batches_tracked"
"""A counter that no forward pass in eval mode uses; files of 2018 do not have it."""


@dataclass(frozen=True)
class Match:
    """A file's weights by a network's names.

    Names in `lacking`, `foreign` and `misshapen` are without the common prefix of the network or of
    the file.

    Attributes:
        weights: the tensors that belong to the network, by its full names.
        lacking: names of the network that the file does not have.
        foreign: names of the file that the network does not have.
        misshapen: names whose tensors have another shape in the file.
        prefix: common prefix of these names in the file.
        front: common prefix of the network's names.
        aside: full names in the file outside that prefix; they are no part of the network.
        renamed: the network's names of parts, by the file's different names.
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

    If the network and the file name parts differently (`fc` and `linear`), all tensors have the
    same shapes in the same order, and no other part has these names, the parts are taken to be the
    same.

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
    """Return the common prefix of dotted names, up to and including a dot."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}." for level in common)


def _readings(saved: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """Return the weights by their names, and by their names without wrappers."""
    plain = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in saved.items()
    }
    # If two names became equal, only wrappers distinguish two networks.
    return [saved, plain] if len(plain) == len(saved) and plain.keys() != saved.keys() else [saved]


def _prefixes(names: Iterable[str], bare: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes under which the most names of the network occur."""
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
    """Return the network's word for each word of the file that differs, if only words differ."""
    lacking = [n for n in bare if n not in inside and not n.endswith(UNUSED)]
    foreign = [n for n in inside if n not in bare and not n.endswith(UNUSED)]
    if len(lacking) != len(foreign):
        return {}
    words: dict[str, str] = {}
    for own, other in zip(lacking, foreign, strict=True):
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
                f"Expected one network, got two that fit, under {first!r} and {second!r}: save "
                "only the state_dict of the intended one"
            )
