"""How the base classifier is run where only its votes count: precision, layout, compilation."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smoothcert.certify.logits import LogitsOf
from smoothcert.errors import InvalidArgumentError, SmoothCertWarning, require_count
from smoothcert.models import Folding

logger = logging.getLogger(__name__)

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
AUTO = "auto"
CACHED_BYTES = 3 * 2**18
"""Bytes of noisy images in a batch on a CPU: ResNets of CIFAR's size are fastest where a layer's
activations stay in its cache, 64 images in float32 and 128 in bfloat16."""
ALWAYS = {"enabled": True, "benchmark": False, "deterministic": False}
"""How cuDNN is run: what it measures to be the fastest differs from run to run."""
ADDRESS = re.compile(" at 0x[0-9a-f]+")
SMALLEST_BATCH, LARGEST_CPU_BATCH, LARGEST_BATCH = 8, 256, 4096
LARGEST_PIXELS = 2**26
"""Numbers in a batch of noisy images on a GPU, at most."""
MEMORY_SHARE = 0.6
"""Share of a GPU's free memory that a batch may take."""
PROBES = 16
"""Random images on which a folded network must answer as the network does."""
COMPILING_PAYS = 1200
"""Seconds of uncompiled work from which on compiling is tried: it takes up to two minutes, and
saved at most a tenth of the time on a CPU."""


@dataclass(frozen=True)
class Execution:
    """How the base classifier is run. A certificate speaks of the classifier as it voted.

    Attributes:
        precision: `float32` (no TensorFloat-32), `bfloat16` or `float16`: of weights, images and
            activations. Another precision is another classifier, with other votes.
        channels_last: memory layout of images and weights; changes rounding errors alone.
        freeze: fold each BatchNorm into the convolution before it; changes rounding errors alone.
        compile: whether to compile the network; `auto`: where it repays the time it takes.
        cuda_graphs: whether to replay the network as one CUDA graph; `auto`: on a GPU.
        batch_size: noisy images in a forward pass; `auto`: what suits the CPU's cache or fits the
            GPU's memory. A batch that does not fit is halved, then and afterwards.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> Execution(precision="bfloat16").dtype
        torch.bfloat16
    """

    precision: str = "float32"
    channels_last: bool = True
    freeze: bool = True
    compile: bool | str = AUTO
    cuda_graphs: bool | str = AUTO
    batch_size: int | str = AUTO

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(
                f"Expected `precision` one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        for name in ("compile", "cuda_graphs"):
            value = getattr(self, name)
            if not isinstance(value, bool) and value != AUTO:
                raise InvalidArgumentError(f"Expected `{name}` true, false or auto, got {value!r}")
        if self.batch_size != AUTO:
            require_count("batch_size", self.batch_size)  # pyright: ignore[reportArgumentType]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, images and activations."""
        return PRECISIONS[self.precision]


class Runner:
    """A private copy of a classifier, ready to vote; the classifier itself is left as it is.

    Args:
        classifier: maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K).
        execution: how to run it.
        shape: shape of an image, (C, H, W).
        device: where to run it.
        num_classes: number of classes K, to find the logits by where the classifier returns more;
            None: it returns logits.

    Attributes:
        batch_size: noisy images in a forward pass, at present.
        compiled: whether the network has been compiled.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
        >>> runner = Runner(network, Execution(batch_size=4), (1, 3, 3), torch.device("cpu"))
        >>> runner(torch.zeros(3, 1, 3, 3)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        classifier: nn.Module,
        execution: Execution,
        shape: tuple[int, ...],
        device: torch.device,
        num_classes: int | None = None,
    ) -> None:
        self.execution = execution
        self.num_classes = num_classes
        self.shape = shape
        self.device = device
        self.compiled = False
        self._graph: _Graph | None = None
        self._unrecordable = False
        self._network: Callable[[Tensor], Tensor] = self._prepared(classifier)
        self.batch_size = self._chosen_batch_size()
        if execution.compile is True:
            self.compile()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of at most `batch_size` images (N, C, H, W), in parts if need be."""
        logits: list[Tensor] = []
        done = 0
        while done < len(images):
            part = images[done : done + self.batch_size]
            try:
                with self._as_recorded():
                    logits.append(self._logits(part))
                done += len(part)
                continue
            except RuntimeError as error:
                if self.batch_size == 1 or not _out_of_memory(error):
                    raise
            # Outside the handler, which would keep the failed pass's memory alive.
            self._shrink()
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _shrink(self) -> None:
        self.batch_size //= 2
        self._graph = None
        logger.info("Out of memory: batches of %d from now on", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def compile(self) -> None:
        """Compile the network; where that fails it goes on as it is, with a warning."""
        if self.compiled:
            return
        if self.device.type == "cpu" and not _has_compiler():
            if self.execution.compile is True:
                _warn_uncompiled("there is no C++ compiler")
            return
        plain = self._network
        self._graph = None
        self._network = torch.compile(plain, options={"freezing": True})
        self.compiled = True
        try:
            self(torch.zeros(self.batch_size, *self.shape, device=self.device))
        except Exception as error:
            self._network, self.compiled, self._graph = plain, False, None
            _warn_uncompiled(f"compiling it failed ({type(error).__name__})")

    def repays_compiling(self, seconds: float) -> bool:
        """Return whether work of so many uncompiled seconds is worth it, by the settings."""
        return self.execution.compile == AUTO and not self.compiled and seconds > COMPILING_PAYS

    def _logits(self, images: Tensor) -> Tensor:
        if not (self.compiled or self._graphs):
            ready = self._cast(images)
            # A network that works in place must not change what a retry would see.
            return self._network(ready.clone() if ready is images else ready)
        # Both know one size alone: what is missing is filled up and thrown away.
        missing = self.batch_size - len(images)
        full = torch.cat([images, images[:1].expand(missing, *self.shape)]) if missing else images
        full = self._cast(full)
        if self._graphs:
            self._graph = self._graph or self._recorded(full)
        if self._graph:
            return self._graph(full)[: len(images)].clone()
        return self._network(full)[: len(images)]

    def _recorded(self, images: Tensor) -> _Graph | None:
        """Return the network as a CUDA graph, if it can be one and answers as the network does."""
        try:
            graph = _Graph(self._network, images)
            others = images.flip(0) * 0.5
            same = all(_alike(graph(each), self._network(each)) for each in (others, images))
            if same:
                return graph
        except RuntimeError as error:
            if _out_of_memory(error):
                raise
        torch.cuda.synchronize(self.device)
        self._unrecordable = True
        logger.info("The network is run without a CUDA graph: it is not the same as one")
        return None

    @property
    def _graphs(self) -> bool:
        wanted = self.execution.cuda_graphs is not False and not self._unrecordable
        return self.device.type == "cuda" and wanted

    def _cast(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        return images.to(self.execution.dtype, memory_format=layout)

    @property
    def _channels_last(self) -> bool:
        return self.execution.channels_last and len(self.shape) == 3

    def _prepared(self, classifier: nn.Module) -> nn.Module:
        _check_independent(classifier)
        network = _copied(classifier).eval().requires_grad_(False)
        if self.execution.freeze:
            with self._as_recorded():
                network = _folded(network, self.shape)
        network = network.to(self.execution.dtype)
        if self.num_classes is not None:
            # After folding, which cannot trace it.
            network = LogitsOf(network, self.num_classes)
        return network.to(memory_format=torch.channels_last) if self._channels_last else network

    def _chosen_batch_size(self) -> int:
        if self.execution.batch_size != AUTO:
            return int(self.execution.batch_size)
        numbers = math.prod(self.shape)
        if self.device.type != "cuda":
            fitting = CACHED_BYTES // (numbers * self.execution.dtype.itemsize)
            return _power_of_two(fitting, LARGEST_CPU_BATCH)
        return _power_of_two(self._fitting(), min(LARGEST_BATCH, LARGEST_PIXELS // numbers))

    def _fitting(self) -> int:
        """Return how many images fit the GPU, from the memory that a few take."""
        few = SMALLEST_BATCH
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        with torch.inference_mode(), self._as_recorded():
            self._network(self._cast(torch.zeros(few, *self.shape, device=self.device)))
        each = (torch.cuda.max_memory_allocated(self.device) - before) / few
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(MEMORY_SHARE * free / max(each, 1))

    @contextmanager
    def _as_recorded(self) -> Iterator[None]:
        """Run on this device at the precision that is recorded, whatever surrounds the call.

        Without this, autocast would vote in another precision, and products of float32 numbers
        would be rounded as `full_float32` says.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            stack.enter_context(full_float32(self.device.type))
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
            yield


@contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Multiply float32 numbers as such, whatever the switches of torch say; restore these after.

    A GPU may round them to TensorFloat-32 and a CPU to bfloat16 (where a script has called
    `torch.set_float32_matmul_precision`, as many do for speed). torch 2.9 has added a second
    interface. Its switches exclude those of the first: to read one of these raises once a newer
    one says something else.

    Args:
        device: type of the device, `cpu` or `cuda`.

    Example:
        >>> with full_float32("cpu"):
        ...     torch.get_float32_matmul_precision()
        'highest'
    """
    cudnn = torch.backends.cudnn
    newer = _newer_switches(device)
    with ExitStack() as stack:
        # Restored in the opposite order: the older interface changes the newer switches, too.
        for switch, value in newer:
            stack.callback(setattr, switch, "fp32_precision", value)
        with suppress(RuntimeError):
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
        if device == "cuda":
            with suppress(RuntimeError):
                stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            for name, value in ALWAYS.items():
                stack.callback(setattr, cudnn, name, getattr(cudnn, name))
                setattr(cudnn, name, value)
            cudnn.allow_tf32 = False
        for switch, _ in newer:
            switch.fp32_precision = "ieee"
        yield


def _newer_switches(device: str) -> list[tuple[Any, str]]:
    """Return the switches of torch 2.9 and later for a device, with their own values."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    # `set_float32_matmul_precision` changes both of the first two.
    switches = [backends.cuda.matmul, backends.mkldnn.matmul]
    one = backends.cudnn if device == "cuda" else backends.mkldnn
    switches += [one.conv, one.rnn]
    # What a switch takes over from the general one is no value of its own.
    general, backends.fp32_precision = backends.fp32_precision, "none"
    own = [(switch, switch.fp32_precision) for switch in switches]
    backends.fp32_precision = general
    return own


class _Graph:
    """One forward pass recorded as a CUDA graph: a single launch instead of hundreds."""

    def __init__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self._input = images.clone()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._output = network(self._input)

    def __call__(self, images: Tensor) -> Tensor:
        self._input.copy_(images)
        self._graph.replay()
        return self._output


def _copied(classifier: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(classifier)
    except RuntimeError as error:
        raise InvalidArgumentError(
            "Expected a classifier that copy.deepcopy can copy: it holds a tensor that was "
            "computed with gradients, as the old torch.nn.utils.weight_norm leaves behind. Run it "
            "once under torch.no_grad() before"
        ) from error


def _warn_uncompiled(reason: str) -> None:
    warnings.warn(f"The network is run as it is: {reason}", SmoothCertWarning, stacklevel=3)


def _check_independent(classifier: nn.Module) -> None:
    """Refuse what cannot vote copy by copy, or cannot be copied."""
    for name, part in classifier.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise InvalidArgumentError(
                f"Expected BatchNorm with running statistics, got {name or type(part).__name__} "
                "with track_running_stats=False: a vote would depend on the other images of its "
                "batch"
            )
        if "forward" in vars(part):
            raise InvalidArgumentError(
                "Expected `forward` as a method, got one that was set on "
                f"{name or 'the classifier'} itself, which a copy shares: wrap the network in a "
                "module of its own"
            )


@torch.no_grad()
def _folded(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return the network with BatchNorm folded into convolutions, if that leaves its logits."""
    probe = torch.rand((PROBES, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next(network.parameters(), None)
    probe = probe if parameter is None else probe.to(parameter)
    try:
        folded = Folding(network).refreshed()
        same = _alike(folded(probe), network(probe))
    except Exception as error:
        # Not every forward pass can be traced; it runs as it is then.
        logger.info("BatchNorm is not folded: %s", error)
        return network
    return folded if same else network


def _alike(logits: Tensor, others: Tensor) -> bool:
    """Return whether logits (N, K) differ by no more than rounding errors may."""
    spread = (others.amax(1) - others.amin(1)).amin()
    allowed = 1e-4 if others.dtype in (torch.float32, torch.float64) else 0.05
    return bool((logits - others).abs().amax() <= allowed * spread)


def _is_plain(name: str, value: object) -> bool:
    """Return whether an attribute may change what a module computes, and can be told by name."""
    if name.startswith("_") or name == "training":
        return False
    return isinstance(value, (bool, int, float, str, tuple, list, type(None), Tensor))


def _power_of_two(fitting: int, largest: int) -> int:
    size = max(SMALLEST_BATCH, min(fitting, largest))
    return 2 ** (size.bit_length() - 1)


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("allocate memory", "out of memory", "ALLOC_FAILED")
    )


def weights_digest(module: nn.Module) -> str:
    """Return a short digest of a module's parts, parameters and buffers.

    Args:
        module: any module, on any device.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> weights_digest(layer) == before
        False
    """
    # Addresses in a part's description differ from process to process.
    digest = hashlib.sha256(ADDRESS.sub("", repr(module)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if _is_plain(key, value)}
        text = f"{name}{sorted(plain.items())}"
        digest.update(ADDRESS.sub("", text).encode())
    # Buffers that are in no checkpoint too: normalisation has such.
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
