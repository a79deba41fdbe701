"""Passes of a training step, against what each method's algorithm says."""

import pytest

from smoothcert.attacks import DDN, PGD, NoAttack
from smoothcert.benchmarks import Passes, count_passes
from smoothcert.objectives import ADRE, CATRS, MACER, Consistency, Gaussian, SmoothMix, Stability


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (Gaussian(3), 3),
        (ADRE(noise_draws=5), 5),
        (MACER(noise_draws=7), 7),
        (Consistency(noise_draws=2), 2),
        # The clean images too.
        (Stability(noise_draws=2), 2 + 1),
        # The copies, T steps on them, and the mixed copies.
        (SmoothMix(noise_draws=2, steps=4), 2 + 4 * 2 + 2),
        (CATRS(noise_draws=3, steps=4), 3 + 4 * 3 + 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_step_takes_the_passes_of_its_algorithm(objective, passes):
    assert count_passes(objective, NoAttack(), 0.5) == Passes(passes, passes)


@pytest.mark.parametrize("kind", [PGD, DDN])
def test_an_attack_adds_its_steps_times_its_draws(kind):
    assert count_passes(Gaussian(3), kind(1.0, steps=4), 0.5) == Passes(4 * 3 + 3, 4 * 3 + 3)
    own = kind(1.0, steps=4, noise_draws=1)
    assert count_passes(Gaussian(3), own, 0.5) == Passes(4 + 3, 4 + 3)


def test_a_term_without_weight_takes_no_passes():
    assert count_passes(SmoothMix(weight=0.0), NoAttack(), 0.5) == Passes(2, 2)
    assert count_passes(CATRS(weight=0.0), NoAttack(), 0.5) == Passes(4, 4)
