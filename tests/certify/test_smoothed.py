"""The smoothed classifier on classifiers whose radii are known."""

import copy
import itertools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from smoothcert.certify import (
    AnytimeCertifier,
    CohenCertifier,
    Example,
    Execution,
    PrecisionCertifier,
    SequentialCertifier,
    SmoothedClassifier,
    TightCertifier,
)
from smoothcert.errors import InvalidArgumentError, MismatchError, NonFiniteError
from smoothcert.models import normalized
from smoothcert.noise import discrete_loss, generator
from smoothcert.stats import certified_radius
from smoothcert.types import ABSTAIN
from tests.helpers.driving import Watched, half_space

QUICK = TightCertifier(n0=20, n=500)


FULL = [
    CohenCertifier(n=20_000),
    TightCertifier(n=20_000),
    TightCertifier(n=20_000, bound="rectangle"),
    PrecisionCertifier(n=20_000),
]


@pytest.mark.parametrize("certifier", FULL, ids=str)
@pytest.mark.parametrize("pixel", [0.52, 0.6, 0.7])
def test_radius_of_a_half_space_is_close_to_the_distance_and_never_beyond(certifier, pixel):
    """The smoothed classifier's exact radius is the distance to the plane."""
    image = torch.full((1, 1, 4, 4), pixel)
    [proof] = SmoothedClassifier(half_space(), 0.25, 2).certify(image, certifier)
    distance = (pixel - 0.5) * 4
    assert proof.label == 1
    assert 0.85 * distance - 0.02 < proof.radius <= distance


@pytest.mark.parametrize("kind", [SequentialCertifier, AnytimeCertifier])
@pytest.mark.parametrize("pixel", [0.52, 0.6, 0.7])
def test_radius_of_a_half_space_is_a_radius_of_the_grid_within_the_distance(kind, pixel):
    image = torch.full((1, 1, 4, 4), pixel)
    certifier = kind(n=20_000, radii=(0.0, 0.05, 0.3, 0.6, 0.9))
    [proof] = SmoothedClassifier(half_space(), 0.25, 2).certify(image, certifier)
    distance = (pixel - 0.5) * 4
    assert proof.label == 1
    assert max(r for r in certifier.radii if r < 0.85 * distance) <= proof.radius <= distance
    assert proof.n_samples <= 20_000


@pytest.mark.parametrize(
    "certifier",
    [QUICK, SequentialCertifier(n0=20, n=500), AnytimeCertifier(n0=20, n=500)],
    ids=lambda certifier: type(certifier).__name__,
)
def test_images_do_not_influence_each_other_and_batch_size_does_not_matter(network, certifier):
    images = torch.rand(3, 1, 6, 6, generator=generator("cpu", 0))
    together = SmoothedClassifier(network, 0.5, 3).certify(images, certifier, indices=[4, 9, 11])
    for batch_size in (1, 37, 1000):
        smoothed = SmoothedClassifier(network, 0.5, 3, Execution(batch_size=batch_size))
        for image, index, proof in zip(images, [4, 9, 11], together, strict=True):
            assert smoothed.certify(image[None], certifier, indices=[index]) == [proof]


def test_certificates_come_in_the_order_of_the_images_whenever_they_end():
    """Clear images end long before unclear ones."""
    pixels = torch.tensor([0.505, 0.9, 0.1, 0.5, 0.9, 0.49])
    images = pixels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    smoothed = SmoothedClassifier(half_space(), 0.25, 2, Execution(batch_size=8))
    certifier = SequentialCertifier(n=1000)
    proofs = smoothed.certify(images, certifier, indices=[5, 4, 3, 2, 1, 0])
    alone = [
        smoothed.certify(image, certifier, indices=[5 - place])[0]
        for place, image in enumerate(images)
    ]
    assert proofs == alone
    assert [proofs[place].label for place in (1, 2, 4)] == [1, 0, 1]


def test_the_same_tensor_twice_has_two_certificates():
    image = torch.full((1, 4, 4), 0.51)
    smoothed = SmoothedClassifier(half_space(), 0.25, 2)
    proofs = smoothed.certify(torch.stack([image, image]), QUICK)
    assert proofs[0].n_a != proofs[1].n_a
    assert proofs == smoothed.certify(torch.stack([image, image]), QUICK, indices=[0, 1])


@pytest.mark.parametrize("labels", [[1], [1, 0, 1]])
def test_labels_and_indices_are_one_for_each_image(network, labels):
    images = torch.full((2, 1, 6, 6), 0.5)
    smoothed = SmoothedClassifier(network, 0.5, 3)
    message = f"for each of 2 images, got {len(labels)}"
    with pytest.raises(InvalidArgumentError, match=f"one of `labels` {message}"):
        smoothed.certify(images, QUICK, labels=labels)
    with pytest.raises(InvalidArgumentError, match=f"one of `indices` {message}"):
        smoothed.certify(images, QUICK, indices=labels)
    with pytest.raises(InvalidArgumentError, match=f"one of `indices` {message}"):
        smoothed.predict(images, indices=labels)


def test_the_label_as_target_takes_labels_and_certifies_them_alone():
    images = torch.full((2, 1, 4, 4), 0.7)
    smoothed = SmoothedClassifier(half_space(), 0.25, 2)
    certifier = SequentialCertifier(n=1000, target="label")
    right, wrong = smoothed.certify(images, certifier, labels=[1, 0])
    assert (right.label, wrong.label) == (1, ABSTAIN)
    with pytest.raises(InvalidArgumentError, match="Expected labels with target=label"):
        smoothed.certify(images, certifier)


def test_weights_that_changed_between_two_calls_are_noticed(network):
    images = torch.rand(3, 1, 6, 6, generator=generator("cpu", 0))
    smoothed = SmoothedClassifier(network, 0.5, 3)
    first = smoothed.certify(images, QUICK)
    assert smoothed.certify(images, QUICK) == first
    kept = smoothed.runner
    network[5].weight.data.neg_()
    changed = smoothed.certify(images, QUICK)
    assert smoothed.runner is not kept
    assert changed == SmoothedClassifier(copy.deepcopy(network), 0.5, 3).certify(images, QUICK)
    assert changed != first
    network[1].running_mean += 5
    assert smoothed.certify(images, QUICK) != changed


def test_a_normalisation_that_changed_between_two_calls_is_noticed():
    network = normalized(half_space(), mean=[0.0], std=[1.0])
    smoothed = SmoothedClassifier(network, 0.25, 2)
    image = torch.full((1, 4, 4), 0.7)
    assert smoothed.certify(image, QUICK)[0].label == 1
    network[0].mean += 0.4
    assert smoothed.certify(image, QUICK)[0].label == 0


def test_a_runner_that_is_ready_is_used_again(network):
    smoothed = SmoothedClassifier(network, 0.5, 3)
    assert smoothed.runner is None
    smoothed.certify(torch.full((1, 6, 6), 0.5), QUICK)
    runner = smoothed.runner
    smoothed.predict(torch.full((1, 6, 6), 0.5))
    assert smoothed.runner is runner


def test_images_of_another_shape_get_another_runner():
    smoothed = SmoothedClassifier(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 0.5, 4)
    for side in (4, 7, 4):
        [proof] = smoothed.certify(torch.full((1, side, side), 0.5), QUICK)
        assert proof.n_samples == 500


class Returning(nn.Module):
    """Gives what a function makes of another network's logits and images."""

    def __init__(self, network, make):
        super().__init__()
        self.network, self.make = network, make

    def forward(self, images):
        return self.make(self.network(images), images)


@dataclass
class Output:
    loss: torch.Tensor | None
    scores: torch.Tensor


UNAMBIGUOUS = {
    "attribute": lambda logits, images: SimpleNamespace(logits=logits, aux=-logits),
    "named tuple": lambda logits, images: namedtuple("Out", "logits aux")(logits, -logits),
    "key": lambda logits, images: {"aux": -logits, "logits": logits},
    "with features": lambda logits, images: (images.flatten(1), logits),
    "with labels": lambda logits, images: [logits.argmax(1), logits, logits.long()],
    "only value": lambda logits, images: OrderedDict(out=logits),
    "dataclass": lambda logits, images: Output(None, logits),
}


@pytest.mark.parametrize("make", UNAMBIGUOUS.values(), ids=UNAMBIGUOUS)
@pytest.mark.parametrize("freeze", [True, False])
def test_logits_are_taken_from_what_a_classifier_returns_where_they_are_unambiguous(
    network, make, freeze
):
    images = torch.rand(2, 1, 6, 6, generator=generator("cpu", 0))
    # Unfolded, so that rounding errors are the same.
    execution = Execution(freeze=False)
    expected = SmoothedClassifier(network, 0.5, 3, execution).certify(images, QUICK)
    wrapped = SmoothedClassifier(Returning(network, make), 0.5, 3, Execution(freeze=freeze))
    assert wrapped.certify(images, QUICK) == expected
    assert (
        wrapped.predict(images).tolist()
        == SmoothedClassifier(network, 0.5, 3, execution).predict(images).tolist()
    )


AMBIGUOUS = {
    "two": (
        lambda logits, images: (logits, -logits),
        r"got tuple \(0: \(\d+, 3\), 1: \(\d+, 3\)\)",
    ),
    "none": (
        lambda logits, images: {"features": images},
        r"got dict \(features: \(\d+, 1, 6, 6\)\)",
    ),
    "nothing": (lambda logits, images: None, "got NoneType for N"),
    "array": (lambda logits, images: logits.numpy(), "got ndarray for N"),
    "text": (lambda logits, images: ["cat"], r"got list \(0: str\)"),
}


@pytest.mark.parametrize(("make", "found"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_anything_else_that_a_classifier_returns_is_named(network, make, found):
    smoothed = SmoothedClassifier(Returning(network, make), 0.5, 3)
    with pytest.raises(MismatchError, match=rf"^Expected logits of shape \(N, 3\).*{found}"):
        smoothed.certify(torch.full((1, 1, 6, 6), 0.5), QUICK)


def test_logits_by_name_of_another_number_of_classes_are_refused(network):
    smoothed = SmoothedClassifier(Returning(network, UNAMBIGUOUS["key"]), 0.5, 10)
    with pytest.raises(MismatchError, match=r"for 10 classes, got \(\d+, 3\)"):
        smoothed.certify(torch.full((1, 1, 6, 6), 0.5), QUICK)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.full((1, 6, 6), 0.5, np.float32), "got ndarray"),
        ([torch.full((1, 6, 6), 0.5)], "got list"),
        (Image.new("L", (6, 6)), "got Image"),
        # 0 and 1 lie in [0, 1], and are two shades of black.
        (torch.ones(1, 6, 6, dtype=torch.uint8), r"got torch.uint8: .*images\.float\(\) / 255"),
        (torch.ones(1, 6, 6, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_images_that_are_no_floating_point_tensor_are_refused(network, images, found):
    smoothed = SmoothedClassifier(network, 0.5, 3)
    for ask in (
        lambda: smoothed.certify(images, QUICK),
        lambda: smoothed.predict(images),
        lambda: list(smoothed.stream([Example(images, None, 0)], QUICK)),
    ):
        with pytest.raises(InvalidArgumentError, match=found):
            ask()


def test_double_precision_images_are_certified_as_single_precision_ones(network):
    images = torch.rand(2, 1, 6, 6, generator=generator("cpu", 0))
    smoothed = SmoothedClassifier(network, 0.5, 3)
    assert smoothed.certify(images.double(), QUICK) == smoothed.certify(images, QUICK)


def test_a_precision_alone_is_an_execution(network):
    assert SmoothedClassifier(network, 0.5, 3, "bfloat16").execution == Execution("bfloat16")
    with pytest.raises(InvalidArgumentError, match=r"`precision` one of float32, .*, got 'fast'"):
        SmoothedClassifier(network, 0.5, 3, "fast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": lambda images: images}, "`classifier` a torch.nn.Module .*got function"),
        ({"classifier": nn.Linear}, "`classifier` a torch.nn.Module .*got the class Linear"),
        ({"classifier": 0.5, "sigma": nn.Flatten()}, "`classifier` a torch.nn.Module .*got float"),
        ({"execution": torch.bfloat16}, "`execution` an Execution or .*got dtype"),
    ],
)
def test_arguments_of_another_kind_are_named(network, arguments, message):
    with pytest.raises(InvalidArgumentError, match=f"^Expected {message}$"):
        SmoothedClassifier(**{"classifier": network, "sigma": 0.5, "num_classes": 3, **arguments})


@pytest.mark.parametrize("certifier", [TightCertifier, "tight", 1000])
def test_what_is_no_certifier_is_named(network, certifier):
    with pytest.raises(InvalidArgumentError, match=r"`certifier` a certifier, for .*\(\), got "):
        SmoothedClassifier(network, 0.5, 3).certify(torch.full((1, 6, 6), 0.5), certifier)


def test_indices_are_whole_numbers_from_zero_of_any_library(network):
    images = torch.full((2, 1, 6, 6), 0.5)
    smoothed = SmoothedClassifier(network, 0.5, 3)
    with pytest.raises(InvalidArgumentError, match="index >= 0, got -1"):
        smoothed.certify(images, QUICK, indices=[3, -1])
    with pytest.raises(InvalidArgumentError, match="index >= 0, got -1"):
        smoothed.predict(images, indices=[3, -1])
    with pytest.raises(InvalidArgumentError, match=r"integers as `indices`, got \[1\.5, 2\]"):
        smoothed.certify(images, QUICK, indices=[1.5, 2])
    with pytest.raises(InvalidArgumentError, match="integers as `labels`"):
        smoothed.certify(images, QUICK, labels=[0.5, 2])
    expected = smoothed.certify(images, QUICK, indices=[3, 4])
    for indices in (np.array([3, 4]), torch.tensor([3, 4]), range(3, 5)):
        assert smoothed.certify(images, QUICK, indices=indices) == expected


def test_a_stream_draws_images_as_there_is_room():
    endless = (Example(torch.full((1, 4, 4), 0.9), None, index) for index in itertools.count())
    smoothed = SmoothedClassifier(half_space(), 0.25, 2, Execution(batch_size=64))
    results = list(itertools.islice(smoothed.stream(endless, SequentialCertifier(n=1000)), 20))
    assert all(result.certificate.label == 1 for result in results)
    assert all(result.samples == result.certificate.n_samples + 100 for result in results)
    assert len({result.example.index for result in results}) == 20
    assert next(endless).index < 60


def test_predictions_are_right_and_in_order():
    pixels = torch.tensor([0.9, 0.1, 0.55, 0.45, 0.9])
    images = pixels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    answers = SmoothedClassifier(half_space(), 0.25, 2).predict(images)
    assert answers.tolist() == [1, 0, 1, 0, 1]
    assert answers.dtype == torch.int64


def test_a_tie_is_abstained_on_after_n_samples():
    """The plane goes through the image: each class gets half of all votes."""
    watched = Watched(half_space())
    smoothed = SmoothedClassifier(watched, 0.25, 2, Execution(batch_size=64))
    images = torch.full((5, 1, 4, 4), 0.5)
    assert smoothed.predict(images, n=300).tolist() == [ABSTAIN] * 5
    assert sum(map(len, watched.seen)) == 5 * 300


def test_a_clear_image_takes_a_few_samples():
    watched = Watched(half_space())
    smoothed = SmoothedClassifier(watched, 0.25, 2)
    assert smoothed.predict(torch.full((1, 4, 4), 0.9)).tolist() == [1]
    assert sum(map(len, watched.seen)) < 25


def test_predictions_are_wrong_at_most_as_often_as_alpha_says():
    """200 seeded images of P(class 1) = .6, at alpha = .1 and four standard deviations."""
    images = torch.full((200, 1, 4, 4), 0.5 + 0.2533 * 0.25 / 4)
    answers = SmoothedClassifier(half_space(), 0.25, 2).predict(images, n=400, alpha=0.1)
    assert (answers == 0).float().mean() < 0.1 + 4 * (0.1 * 0.9 / 200) ** 0.5
    assert (answers == 1).float().mean() > 0.7


@pytest.mark.parametrize("arguments", [{"n": 0}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_predictions_refuse_arguments_out_of_range(network, arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        SmoothedClassifier(network, 0.5, 3).predict(torch.full((1, 6, 6), 0.5), **arguments)


def test_discrete_noise_shows_the_classifier_8_bit_images_alone(network):
    watched = Watched(network)
    image = torch.randint(0, 256, (1, 6, 6), generator=generator("cpu", 0)).float() / 255
    SmoothedClassifier(watched, 0.5, 3, noise="discrete").certify(image, QUICK)
    valid = torch.arange(256).float() / 255
    assert torch.isin(torch.cat(watched.seen), valid).all()


def test_discrete_noise_refuses_other_images_and_names_them(network):
    smoothed = SmoothedClassifier(network, 0.5, 3, noise="discrete")
    with pytest.raises(InvalidArgumentError, match=r"Expected 8-bit pixels.*at image 42"):
        smoothed.certify(torch.full((1, 6, 6), 0.5), QUICK, indices=[42])


def test_discrete_noise_takes_its_own_error_from_alpha():
    """At an alpha of little more than the loss, what is left decides the radius."""
    shape, n = (1, 4, 4), 500
    loss = discrete_loss(shape, n)
    smoothed = SmoothedClassifier(half_space(), 0.25, 2, noise="discrete")
    assert smoothed.remaining_alpha(shape, n, 0.001) == 0.001 - loss
    alpha = 1.5 * loss
    [proof] = smoothed.certify(torch.full(shape, 1.0), CohenCertifier(n=n, alpha=alpha))
    assert proof.radius == certified_radius(proof.n_a, 0, n, 0.25, alpha - loss, "cohen")
    assert proof.radius < certified_radius(proof.n_a, 0, n, 0.25, alpha, "cohen")


def test_an_alpha_that_discrete_noise_uses_up_is_refused(network):
    shape, n = (1, 6, 6), 500
    image = torch.full(shape, 51 / 255)
    alpha = discrete_loss(shape, n)
    smoothed = SmoothedClassifier(network, 0.5, 3, noise="discrete")
    for ask in (
        lambda: smoothed.certify(image, CohenCertifier(n=n, alpha=alpha)),
        lambda: smoothed.predict(image, n=n, alpha=alpha),
    ):
        with pytest.raises(InvalidArgumentError, match=r"Expected `alpha` above .*500 discrete"):
            ask()
    assert SmoothedClassifier(network, 0.5, 3).remaining_alpha(shape, n, alpha) == alpha


def test_discrete_and_gaussian_noise_prove_about_the_same():
    image = torch.full((1, 4, 4), 153 / 255)
    gaussian, discrete = (
        SmoothedClassifier(half_space(), 0.12, 2, noise=noise).certify(image, FULL[1])[0]
        for noise in ("gaussian", "discrete")
    )
    # Rounding to multiples of 1/255 and clipping hardly move a mean; the distance is .4.
    assert discrete.radius == pytest.approx(gaussian.radius, rel=0.05)


def test_seed_and_index_choose_the_noise(network):
    image = torch.full((1, 1, 6, 6), 0.5)
    smoothed = SmoothedClassifier(network, 2.0, 3)
    counts = {
        (seed, index): smoothed.certify(image, QUICK, seed, [index])[0].n_a
        for seed in range(3)
        for index in range(3)
    }
    assert len(set(counts.values())) > 3


def test_the_classifier_votes_in_eval_mode_and_is_left_in_its_own(network):
    image = torch.full((2, 1, 6, 6), 0.5)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    trained = SmoothedClassifier(network, 0.5, 3).certify(image, QUICK)
    assert all(part.training for part in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert SmoothedClassifier(network.eval(), 0.5, 3).certify(image, QUICK) == trained


@pytest.mark.parametrize("value", [1.5, -0.1, torch.nan, torch.inf])
def test_pixels_outside_the_range_name_the_image(network, value):
    images = torch.full((2, 1, 6, 6), 0.5)
    images[1, 0, 3, 3] = value
    with pytest.raises(NonFiniteError, match=r"Expected pixels in \[0, 1\] at image 42"):
        SmoothedClassifier(network, 0.5, 3).certify(images, QUICK, indices=[7, 42])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_logits_are_an_error_and_never_a_vote(value):
    class SometimesNan(nn.Module):
        def forward(self, images):
            logits = images.flatten(1)[:, :3].clone()
            logits[-1, 0] = value
            return logits

    with pytest.raises(NonFiniteError, match="NaN or infinite logits at image 42"):
        SmoothedClassifier(SometimesNan(), 0.5, 3).certify(
            torch.full((1, 1, 6, 6), 0.5), QUICK, indices=[42]
        )


def test_another_number_of_logits_names_both_numbers(network):
    with pytest.raises(MismatchError, match=r"Expected logits of shape \(N, 10\).*, 3\)"):
        SmoothedClassifier(network, 0.5, 10).certify(torch.full((1, 1, 6, 6), 0.5), QUICK)


def test_an_image_without_a_batch_dimension_is_a_batch_of_one(network):
    image = torch.rand(1, 6, 6, generator=generator("cpu", 0))
    smoothed = SmoothedClassifier(network, 0.5, 3)
    assert smoothed.certify(image, QUICK) == smoothed.certify(image[None], QUICK)
    assert torch.equal(smoothed.predict(image), smoothed.predict(image[None]))


@pytest.mark.parametrize("shape", [(6, 6), (1, 1, 1, 6, 6), (0, 1, 6, 6)])
def test_what_is_no_batch_of_images_is_refused(network, shape):
    with pytest.raises(MismatchError, match=r"Expected images of shape \(B, C, H, W\)"):
        SmoothedClassifier(network, 0.5, 3).certify(torch.full(shape, 0.5))


def test_images_of_two_shapes_are_refused(network):
    examples = [
        Example(torch.full((1, side, 6), 0.5), None, index) for index, side in ((7, 6), (9, 5))
    ]
    with pytest.raises(MismatchError, match=r"\(1, 6, 6\) at first, got \(1, 5, 6\) at image 9"):
        list(SmoothedClassifier(network, 0.5, 3).stream(examples, QUICK))


@pytest.mark.parametrize("arguments", [{"sigma": 0.0}, {"num_classes": 1}, {"noise": "laplace"}])
def test_arguments_out_of_range_are_refused(network, arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        SmoothedClassifier(**{"classifier": network, "sigma": 0.5, "num_classes": 3, **arguments})


def test_a_plain_attribute_that_changed_is_noticed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 1.0
            self.last = nn.Linear(4, 2)
            self.last.weight.data = torch.tensor([[0.0] * 4, [1.0] * 4])
            self.last.bias.data.zero_()

        def forward(self, images):
            return self.scale * self.last(images.flatten(1))

    network, image = Scaled(), torch.full((1, 2, 2), 0.5)
    smoothed = SmoothedClassifier(network, 0.1, 2)
    assert smoothed.predict(image, n=200).item() == 1
    network.scale = -1.0
    assert smoothed.predict(image, n=200).item() == 0


def test_another_default_dtype_draws_the_same_noise(network):
    image, certifier = torch.full((1, 6, 6), 0.5), TightCertifier(n0=20, n=200, alpha=0.05)
    expected = SmoothedClassifier(network, 0.25, 3).certify(image, certifier)
    torch.set_default_dtype(torch.float64)
    try:
        assert SmoothedClassifier(network, 0.25, 3).certify(image, certifier) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(network, label):
    certifier = TightCertifier(n0=20, n=200, target="label")
    with pytest.raises(InvalidArgumentError, match="label in 0 … 2"):
        SmoothedClassifier(network, 0.25, 3).certify(
            torch.full((1, 6, 6), 0.5), certifier, labels=[label]
        )
