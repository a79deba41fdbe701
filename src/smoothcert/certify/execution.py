"""How the base classifier runs: precision, memory layout, compilation."""

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
"""Bytes of noisy images in a batch on a CPU: CIFAR ResNets are fastest if the activations of a
layer stay in the cache, which holds for 64 images in float32 and 128 in bfloat16."""
ALWAYS = {"enabled": True, "benchmark": False, "deterministic": False}
"""cuDNN settings: with `benchmark`, the fastest algorithm may differ from run to run."""
ADDRESS = re.compile(" at 0x[0-9a-f]+")
COMPILERS = ("g++", "clang++", "c++", "cl")
SMALLEST_BATCH, LARGEST_CPU_BATCH, LARGEST_BATCH = 8, 256, 4096
LARGEST_PIXELS = 2**26
"""Largest number of pixel values in a batch on a GPU."""
MEMORY_SHARE = 0.6
"""Largest share of a GPU's free memory for a batch."""
PROBES = 16
"""Number of random images on which a folded network must agree with the original."""
COMPILING_PAYS = 1200
"""Seconds of remaining uncompiled work above which to compile: compiling takes up to two minutes,
and saved at most a tenth of the time on a CPU."""


@dataclass(frozen=True)
class Execution:
    """How the base classifier runs. A certificate concerns the classifier at this precision.

    Attributes:
        precision: `float32` (no TensorFloat-32), `bfloat16` or `float16`, for weights, images and
            activations. A different precision is a different classifier, with different votes.
        channels_last: memory layout of images and weights; only changes rounding errors.
        freeze: fold each BatchNorm into the convolution before it; only changes rounding errors.
        compile: whether to compile the network; `auto`: if it saves more time than it takes.
        cuda_graphs: whether to replay the network as one CUDA graph; `auto`: on a GPU.
        batch_size: noisy images in a forward pass; `auto`: chosen for the CPU's cache or the GPU's
            memory. If a batch does not fit, this and all later ones are halved.

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
        """Data type of weights, images and activations."""
        return PRECISIONS[self.precision]


class Runner:
    """A private copy of a classifier, prepared for voting; the classifier itself does not change.

    Args:
        classifier: maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K).
        execution: how to run it.
        shape: shape of an image, (C, H, W).
        device: where to run it.
        num_classes: number of classes K, to find the logits if the classifier returns more than
            these; None: it returns logits.

    Attributes:
        batch_size: current number of noisy images in a forward pass.
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
        """Return the logits of images (N, C, H, W), N <= `batch_size`.

        Halves the batch size when memory runs out.
        """
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
            # Outside the handler, which would keep the memory of the failed pass alive.
            self.batch_size //= 2
            self._graph = None
            logger.info("Out of memory: batches of %d from now on", self.batch_size)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def compile(self) -> None:
        """Compile the network; if that fails, warn and run it uncompiled."""
        if self.compiled:
            return
        if self.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
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
        """Return whether to compile for remaining uncompiled work of `seconds`."""
        return self.execution.compile == AUTO and not self.compiled and seconds > COMPILING_PAYS

    def _logits(self, images: Tensor) -> Tensor:
        if not (self.compiled or self._graphs):
            ready = self._cast(images)
            # A network that changes its input in place must not change the input of a retry.
            return self._network(ready.clone() if ready is images else ready)
        # Both have a fixed batch size: fill the batch up and drop the extra logits.
        missing = self.batch_size - len(images)
        full = torch.cat([images, images[:1].expand(missing, *self.shape)]) if missing else images
        full = self._cast(full)
        if self._graphs:
            self._graph = self._graph or self._recorded(full)
        if self._graph:
            return self._graph(full)[: len(images)].clone()
        return self._network(full)[: len(images)]

    def _recorded(self, images: Tensor) -> _Graph | None:
        """Return the network as a CUDA graph, or None if its logits would differ."""
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
        logger.info("The network runs without a CUDA graph, whose logits would differ")
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
            # After folding, which cannot trace this wrapper.
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
        """Return how many images fit into the GPU's memory, from the use of a small batch."""
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
        """Run on this device at the recorded precision, whatever the caller's settings.

        Otherwise autocast would change the precision, and a GPU or CPU could round products of
        float32 numbers; see `full_float32`.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            stack.enter_context(full_float32(self.device.type))
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
            yield


@contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Multiply in full float32, whatever torch's global settings; restore these at the end.

    A GPU may round float32 numbers to TensorFloat-32, cuDNN by default. A CPU may round them to
    bfloat16 after a call of `torch.set_float32_matmul_precision`. torch 2.9 added a second
    interface. The two conflict: reading an older setting raises an error once a newer one has a
    different value.

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
        # Restored in reverse order: the older interface changes the newer settings too.
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
    """Return the settings of torch 2.9 and later for a device, with their own values."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    # `set_float32_matmul_precision` changes both of the first two.
    switches = [backends.cuda.matmul, backends.mkldnn.matmul]
    one = backends.cudnn if device == "cuda" else backends.mkldnn
    switches += [one.conv, one.rnn]
    # While the general setting is unset, each setting shows its own value, not an inherited one.
    general, backends.fp32_precision = backends.fp32_precision, "none"
    own = [(switch, switch.fp32_precision) for switch in switches]
    backends.fp32_precision = general
    return own


class _Graph:
    """A forward pass as a CUDA graph: one launch instead of hundreds."""

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
            "Expected a classifier that copy.deepcopy can copy, got one with a tensor that was "
            "computed with gradients, as by the old torch.nn.utils.weight_norm. Run it once under "
            "torch.no_grad() first"
        ) from error


def _warn_uncompiled(reason: str) -> None:
    warnings.warn(f"The network runs uncompiled: {reason}", SmoothCertWarning, stacklevel=3)


def _check_independent(classifier: nn.Module) -> None:
    """Refuse classifiers whose votes depend on the batch, or that cannot be copied."""
    for name, part in classifier.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise InvalidArgumentError(
                f"Expected BatchNorm with running statistics, got {name or type(part).__name__} "
                "with track_running_stats=False: a vote would depend on the other images of its "
                "batch"
            )
        if "forward" in vars(part):
            raise InvalidArgumentError(
                "Expected `forward` as a method of the class, got one set on the instance "
                f"{name or 'of the classifier'}, which a copy would share: wrap the network in "
                "another module"
            )


@torch.no_grad()
def _folded(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return the network with BatchNorm folded into convolutions, if its logits stay the same."""
    probe = torch.rand((PROBES, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next(network.parameters(), None)
    probe = probe if parameter is None else probe.to(parameter)
    try:
        folded = Folding(network).refreshed()
        same = _alike(folded(probe), network(probe))
    except Exception as error:
        # Not every forward pass can be traced; such a network runs unfolded.
        logger.info("BatchNorm is not folded: %s", error)
        return network
    return folded if same else network


def _alike(logits: Tensor, others: Tensor) -> bool:
    """Return whether logits (N, K) differ only by rounding errors."""
    spread = (others.amax(1) - others.amin(1)).amin()
    allowed = 1e-4 if others.dtype in (torch.float32, torch.float64) else 0.05
    return bool((logits - others).abs().amax() <= allowed * spread)


def _is_plain(name: str, value: object) -> bool:
    """Return whether an attribute may change the output of a module, and has a stable text."""
    if name.startswith("_") or name == "training":
        return False
    return isinstance(value, (bool, int, float, str, tuple, list, type(None), Tensor))


def _power_of_two(fitting: int, largest: int) -> int:
    size = max(SMALLEST_BATCH, min(fitting, largest))
    return 2 ** (size.bit_length() - 1)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("allocate memory", "out of memory", "ALLOC_FAILED")
    )


def weights_digest(module: nn.Module) -> str:
    """Return a short digest of a module's submodules, parameters and buffers.

    Args:
        module: any module, on any device.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> weights_digest(layer) == before
        False
    """
    # Addresses in a submodule's description differ from process to process.
    digest = hashlib.sha256(ADDRESS.sub("", repr(module)).encode())
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if _is_plain(key, value)}
        text = f"{name}{sorted(plain.items())}"
        digest.update(ADDRESS.sub("", text).encode())
    # All buffers, also those that checkpoints omit, such as those of normalization.
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
