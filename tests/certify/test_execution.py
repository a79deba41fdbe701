"""The private copy that votes: it gives the classifier's logits and leaves that alone."""

import copy
import math
import shutil
import warnings
from operator import attrgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smoothcert.certify import CohenCertifier, Execution, SmoothedClassifier, weights_digest
from smoothcert.certify.execution import (
    CACHED_BYTES,
    COMPILING_PAYS,
    LARGEST_CPU_BATCH,
    PRECISIONS,
    SMALLEST_BATCH,
    Runner,
    full_float32,
)
from smoothcert.errors import InvalidArgumentError, SmoothCertWarning
from smoothcert.models import cifar_resnet
from smoothcert.noise import generator
from tests.helpers.driving import Narrow, Watched

CPU = torch.device("cpu")
SHAPE = (1, 6, 6)
QUICK = CohenCertifier(n0=20, n=300)


def noise(count, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=generator("cpu", seed))


def runner(classifier, shape=SHAPE, **settings):
    return Runner(classifier, Execution(**settings), shape, CPU)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A residual network whose BatchNorm layers have seen images."""
    torch.manual_seed(0)
    network = cifar_resnet(10, (3, 32, 32), [0.5] * 3, [0.25] * 3, depth=8).train()
    with torch.no_grad():
        for seed in range(10):
            network(noise(32, (3, 32, 32), seed))
    return network.eval()


def batch_norms(network):
    return [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_classifier_that_is_handed_in_is_left_as_it_is(network, precision):
    network[5].bias.requires_grad_(False)
    network[2].eval()
    before = copy.deepcopy(network)
    places = [tensor.data_ptr() for tensor in network.state_dict().values()]
    runner(network, precision=precision)(noise(5))
    for part, old in zip(network.modules(), before.modules(), strict=True):
        assert (type(part), part.training) == (type(old), old.training)
    for tensor, old in zip(network.parameters(), before.parameters(), strict=True):
        assert tensor.requires_grad == old.requires_grad
        assert tensor.grad is None
    now, then = network.state_dict(), before.state_dict()
    assert [tensor.data_ptr() for tensor in now.values()] == places
    for name, old in then.items():
        assert torch.equal(now[name], old)
        assert (now[name].dtype, now[name].stride()) == (old.dtype, old.stride())


def test_training_continues_after_certifying(network):
    runner(network)(noise(5))
    network(noise(5)).sum().backward()
    assert all(tensor.grad is not None for tensor in network.parameters())


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
def test_logits_are_the_classifiers_own_in_eval_mode(network, channels_last, freeze):
    got = runner(network, channels_last=channels_last, freeze=freeze)(noise(9))
    with torch.no_grad():
        torch.testing.assert_close(got, network.eval()(noise(9)), rtol=1e-4, atol=1e-5)


def test_folding_batchnorm_leaves_a_residual_networks_logits(resnet):
    images = noise(16, (3, 32, 32), 99)
    folded = runner(resnet, (3, 32, 32))
    assert batch_norms(resnet)
    assert not batch_norms(folded._network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), resnet(images), rtol=1e-3, atol=1e-3)


def test_folding_is_left_out_where_the_network_cannot_be_traced(network):
    watched = Watched(network)
    plain = runner(watched)
    assert batch_norms(plain._network)
    with torch.no_grad():
        expected = network.eval()(noise(4))
    torch.testing.assert_close(plain(noise(4)), expected, rtol=1e-4, atol=1e-5)


def test_folding_is_left_out_where_it_changes_the_logits():
    """A convolution that is used twice cannot take two normalisations."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
            self.first.running_mean += 0.5
            self.second.running_var *= 9

        def forward(self, images):
            again = self.second(self.conv(self.first(self.conv(images))))
            return again.flatten(1)

    torch.manual_seed(0)
    twice = Twice()
    with torch.no_grad():
        torch.testing.assert_close(runner(twice)(noise(4)), twice.eval()(noise(4)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_weights_and_activations_have_the_precision(network, precision):
    watched = Watched(network)
    logits = runner(watched, precision=precision)(noise(3))
    assert logits.dtype == PRECISIONS[precision]
    assert {images.dtype for images in watched.seen} == {PRECISIONS[precision]}
    assert network[0].weight.dtype == torch.float32


def test_bfloat16_is_another_classifier_that_mostly_votes_alike(resnet):
    images = noise(64, (3, 32, 32), 5)
    votes = [runner(resnet, (3, 32, 32), precision=p)(images) for p in ("float32", "bfloat16")]
    assert not torch.equal(votes[0], votes[1].float())
    assert (votes[0].argmax(1) == votes[1].argmax(1)).float().mean() > 0.9


def certified(classifier, **settings):
    smoothed = SmoothedClassifier(classifier, 0.5, 3, Execution(**settings))
    first = smoothed.certify(noise(16), QUICK)
    return smoothed, [first, smoothed.certify(noise(16), QUICK)]


@pytest.mark.parametrize(("fits", "final"), [(64, 64), (63, 32), (32, 32), (9, 8), (1, 1)])
def test_a_batch_that_does_not_fit_gives_the_same_votes_in_smaller_ones(fits, final):
    narrow = Narrow(fits)
    smoothed, certificates = certified(narrow, batch_size=64)
    _, expected = certified(Narrow(10_000), batch_size=64)
    assert certificates == expected
    assert smoothed.runner.batch_size == final


def test_memory_runs_out_once_in_a_session_where_halving_once_suffices():
    narrow = Narrow(32)
    certified(narrow, batch_size=64)
    assert narrow.failures == [64]


def test_memory_runs_out_once_at_each_size():
    narrow = Narrow(8)
    certified(narrow, batch_size=64)
    assert narrow.failures == [64, 32, 16]


def test_a_network_of_one_batch_size_survives_halving_twice(monkeypatch):
    """Compiled networks and CUDA graphs fill each batch up to the present size."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    narrow = Narrow(8)
    compiled = runner(narrow, compile=True, batch_size=64)
    assert compiled.compiled
    assert compiled(noise(64)).shape == (64, 3)


def test_an_image_that_does_not_fit_alone_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        runner(Narrow(0), batch_size=4)(noise(4))


def test_other_errors_of_the_classifier_are_not_taken_for_a_lack_of_memory():
    class Broken(nn.Module):
        def forward(self, images):
            assert len(images) > 0
            raise RuntimeError("of another kind")

    broken = runner(Broken(), batch_size=4)
    with pytest.raises(RuntimeError, match="of another kind"):
        broken(noise(4))
    assert broken.batch_size == 4


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 600), st.sampled_from(list(PRECISIONS)))
def test_automatic_batch_sizes_are_powers_of_two_that_suit_the_cache(channels, side, precision):
    execution = Execution(precision=precision, freeze=False)
    shape = (channels, side, side)
    size = Runner(nn.Flatten(), execution, shape, CPU).batch_size
    bytes_each = math.prod(shape) * execution.dtype.itemsize
    assert size.bit_count() == 1
    assert SMALLEST_BATCH <= size <= LARGEST_CPU_BATCH
    assert size == SMALLEST_BATCH or size * bytes_each <= CACHED_BYTES
    assert size == LARGEST_CPU_BATCH or 2 * size * bytes_each > CACHED_BYTES


def test_a_compiler_that_fails_only_warns(network, monkeypatch):
    def failing(network, **_):
        def call(images):
            raise ValueError("no such instruction")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.warns(SmoothCertWarning, match="compiling it failed .ValueError"):
        plain = runner(network, compile=True, batch_size=8)
    assert not plain.compiled
    assert torch.equal(plain(noise(5)), runner(network, batch_size=8)(noise(5)))


def test_without_a_compiler_the_network_runs_as_it_is(network, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(SmoothCertWarning, match=r"there is no C\+\+ compiler"):
        assert not runner(network, compile=True).compiled
    assert not runner(network, compile="auto").compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles by g++")
def test_a_compiled_network_votes_alike(network):
    with warnings.catch_warnings():
        # Inductor's own deprecations.
        warnings.simplefilter("ignore")
        compiled = runner(network, compile=True, batch_size=64)
        assert compiled.compiled
        votes = torch.cat([compiled(noise(size, seed=size)) for size in (64, 64, 7, 1)])
    plain = runner(network, batch_size=64)
    expected = torch.cat([plain(noise(size, seed=size)) for size in (64, 64, 7, 1)])
    assert votes.shape == expected.shape
    assert (votes.argmax(1) == expected.argmax(1)).float().mean() > 0.98


@pytest.mark.parametrize(
    ("setting", "seconds", "pays"),
    [("auto", 10 * COMPILING_PAYS, True), ("auto", 1, False), (False, 10 * COMPILING_PAYS, False)],
)
def test_compiling_pays_for_much_work_unless_it_is_forbidden(network, setting, seconds, pays):
    assert runner(network, compile=setting).repays_compiling(seconds) == pays


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "float64"}, "Expected `precision` one of float32, bfloat16, float16"),
        ({"compile": "maybe"}, "Expected `compile` true, false or auto, got 'maybe'"),
        ({"cuda_graphs": None}, "Expected `cuda_graphs` true, false or auto, got None"),
        ({"batch_size": 0}, "Expected `batch_size` a whole number >= 1, got 0"),
        ({"batch_size": "large"}, "Expected `batch_size`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Execution(**arguments)


def test_digest_changes_with_weights_and_buffers_and_not_with_modes(network):
    digests = [weights_digest(network), weights_digest(network.eval())]
    assert digests[0] == digests[1]
    network[1].running_mean += 1
    digests.append(weights_digest(network))
    network[0].weight.data[0, 0, 0, 0] += 1
    digests.append(weights_digest(network))
    assert len(set(digests)) == 3


def test_batchnorm_without_running_statistics_is_refused():
    """Its votes would depend on the other images of the batch."""
    network = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())
    with pytest.raises(InvalidArgumentError, match="track_running_stats=False"):
        runner(network)


def test_a_forward_that_a_copy_would_share_is_refused(network):
    inner = network.forward
    network.forward = lambda images: inner(images - 0.5)
    with pytest.raises(InvalidArgumentError, match="`forward` as a method"):
        runner(network)


class SharedConvolution(nn.Module):
    """One convolution before two BatchNorms: folding cannot serve both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.first.running_mean += 0.3
        self.second.running_var *= 3
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, images):
        features = self.first(self.convolution(images)), self.second(self.convolution(images))
        return 1e-4 * self.head(torch.relu(features[0] - features[1]).flatten(1))


def test_folding_is_left_out_where_it_would_change_the_classifier():
    network = SharedConvolution().eval()
    images = noise(16)
    with torch.no_grad():
        expected = network(images).argmax(1)
    assert torch.equal(runner(network, freeze=True)(images).argmax(1), expected)


def test_autocast_around_a_call_does_not_change_the_precision(network):
    images = noise(16)
    plain = runner(network)(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(runner(network)(images), plain)


# What a user's script may have said before, in either interface of torch, or in both.
SAID = {
    "nothing": (),
    "high": ("torch.set_float32_matmul_precision('high')",),
    "medium": ("torch.set_float32_matmul_precision('medium')",),
    "cuDNN": ("torch.backends.cudnn.allow_tf32 = False", "torch.backends.cudnn.benchmark = True"),
    "newer matmul": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'",),
    "newer general": ("torch.backends.fp32_precision = 'tf32'",),
    "newer bfloat16": ("torch.backends.fp32_precision = 'bf16'",),
    "newer convolutions": (
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    ),
    "both": (
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    ),
}
SWITCHES = [
    *(f"cuda.{name}" for name in ("matmul.allow_tf32", "matmul.fp32_precision")),
    *(f"cudnn.{name}" for name in ("allow_tf32", "enabled", "benchmark", "deterministic")),
    *(f"{name}.fp32_precision" for name in ("cudnn.conv", "cudnn.rnn", "mkldnn.matmul")),
    *(f"{name}.fp32_precision" for name in ("mkldnn.conv", "mkldnn.rnn")),
    "fp32_precision",
]
HAS_NEWER = hasattr(torch.backends, "fp32_precision")


def switches():
    """Return what every switch of either interface says, or that it cannot be read."""
    said = {}
    for name in SWITCHES:
        try:
            said[name] = attrgetter(name)(torch.backends)
        except (AttributeError, RuntimeError) as error:
            said[name] = type(error)
    try:
        said["older"] = torch.get_float32_matmul_precision()
    except RuntimeError as error:
        said["older"] = type(error)
    return said


@pytest.fixture
def said(request):
    """What a script has said, taken back after the test."""
    statements = SAID[request.param]
    if not HAS_NEWER and "newer" in request.param + "".join(statements):
        pytest.skip("this torch has one interface")
    for statement in statements:
        exec(statement)
    yield request.param
    if HAS_NEWER:
        torch.backends.fp32_precision = "none"
        for name in SWITCHES:
            if name.startswith("mkldnn"):
                attrgetter(name.rpartition(".")[0])(torch.backends).fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("said", SAID, indirect=True)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float32_is_full_whatever_a_script_has_set_and_the_switches_are_restored(said, device):
    """Of the GPU, too: its switches exist without one."""
    before = switches()
    with full_float32(device):
        inside = switches()
    assert switches() == before
    assert inside["older"] == "highest"
    assert inside["cuda.matmul.allow_tf32"] is False
    if device == "cuda":
        assert inside["cudnn.allow_tf32"] is False
        assert (inside["cudnn.enabled"], inside["cudnn.benchmark"]) == (True, False)
    if HAS_NEWER:
        library = "cudnn" if device == "cuda" else "mkldnn"
        names = ["cuda.matmul", "mkldnn.matmul", f"{library}.conv", f"{library}.rnn"]
        assert {inside[f"{name}.fp32_precision"] for name in names} == {"ieee"}


@pytest.mark.parametrize("said", ["high", "medium", "cuDNN"], indirect=True)
def test_a_torch_with_the_older_interface_alone_is_restored_as_well(said, monkeypatch):
    monkeypatch.setattr("smoothcert.certify.execution._newer_switches", lambda _: [])
    before = switches()["older"], torch.backends.cudnn.allow_tf32
    with full_float32("cuda"):
        assert switches()["older"] == "highest"
        assert torch.backends.cudnn.allow_tf32 is False
    assert (switches()["older"], torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("said", ["medium", "newer bfloat16"], indirect=True)
def test_a_cpu_votes_in_float32_where_a_script_has_allowed_bfloat16(said):
    """A large product and a convolution, which a CPU with bfloat16 rounds to it then."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 30 * 30, 10)
    network, images = nn.Sequential(*layers), noise(16, (3, 32, 32))
    logits = runner(network, (3, 32, 32), batch_size=16)(images)
    exact = network.double()(images.double()).detach()
    assert float((logits - exact).abs().max()) < 1e-5
