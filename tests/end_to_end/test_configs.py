"""Every option of every group composes, resolves, and fits what it configures."""

import inspect

import pytest
from hydra.errors import ConfigCompositionException
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from smoothcert.certify import Execution
from smoothcert.commands import benchmarking
from smoothcert.commands.build import OF_ANY_MODEL, device_of
from smoothcert.commands.commandline import RANGES, check, check_given
from smoothcert.errors import InvalidArgumentError
from tests.helpers.support import CONF, ROOT, composed

GROUPS = (
    "data",
    "model",
    "objective",
    "attack",
    "certifier",
    "execution",
    "optimizer",
    "scheduler",
    "trainer",
    "warmup@attack.warmup",
)
ADDED_GROUPS = ("callbacks", "logger", "debug", "experiment")
# What smoothcert.commands adds to a configuration when it builds the part.
ADDED = {
    "model": {"num_classes", "input_shape", "mean", "std"},
    "optimizer": {"params"},
    "plot": {"rows", "settings", "path"},
    "scheduler": {"optimizer"},
}


def options(*groups):
    return [
        f"{group}={path.stem}"
        for group in groups
        for path in sorted((CONF / group.partition("@")[0]).glob("*"))
    ]


def complete(override):
    """An override with what else it needs."""
    needed = {
        "data=image_folder": ["data.root=somewhere"],
        "model=custom": ["model._target_=smoothcert.models.small_cnn"],
        "objective=custom": ["objective._target_=smoothcert.objectives.Gaussian"],
    }
    if override.startswith("warmup@attack"):
        return ["attack=pgd", override]
    return [override, *needed.get(override, [])]


def targets(node, path=()):
    """All parts of a configuration that name a target, with their path."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for name, child in node.items():
            yield from targets(child, (*path, name))


@pytest.mark.parametrize("override", options(*GROUPS, *ADDED_GROUPS))
def test_every_option_resolves_and_its_target_takes_its_arguments(override, tmp_path):
    with composed(tmp_path, complete(override)) as cfg:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    found = list(targets(resolved))
    assert len(found) > 8
    for path, node in found:
        given = {name for name in node if not (name.startswith("_") and name.endswith("_"))}
        added = ADDED.get(path[-1], set())
        if path == ("scheduler",) and resolved["scheduler_interval"] == "step":
            added = added | {"total_steps"}
        arguments = (given - set(OF_ANY_MODEL) if path == ("model",) else given) | added
        signature = inspect.signature(get_method(node["_target_"]))
        signature.bind(**dict.fromkeys(arguments))


@pytest.mark.parametrize("override", options("certifier", "execution"))
def test_every_option_of_certify_resolves_and_makes_what_it_configures(override, tmp_path):
    """Of the command `certify`, where whatever is null comes from the run."""
    overrides = [override, "run=somewhere", "n0=10", "n=100", "alpha=0.01", "radii=[0,0.5]"]
    with composed(tmp_path, overrides, "certify") as cfg:
        settings = OmegaConf.to_container(cfg.certifier, resolve=True)
        # Single settings that are null are the certifier's own.
        settings = {name: value for name, value in settings.items() if value is not None}
        certifier = instantiate(settings, _convert_="all")
        execution = instantiate(cfg.execution, _convert_="all")
    assert (certifier.n, certifier.alpha) == (100, 0.01)
    assert isinstance(execution, Execution)
    if override.startswith("certifier="):
        assert type(certifier).__name__.lower() == f"{override[10:]}certifier"


def test_fast_is_bfloat16_and_reference_runs_as_published_code_does(tmp_path):
    with composed(tmp_path, ["execution=fast"]) as cfg:
        assert instantiate(cfg.execution) == Execution(precision="bfloat16")
    with composed(tmp_path, ["execution=default"]) as cfg:
        assert instantiate(cfg.execution) == Execution()
    with composed(tmp_path, ["execution=reference"]) as cfg:
        plain = instantiate(cfg.execution)
    assert (plain.precision, plain.batch_size, plain.compile) == ("float32", 1000, False)
    assert (plain.channels_last, plain.freeze, plain.cuda_graphs) == (False, False, False)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_opens_with_its_command_and_is_named_after_its_file(path, tmp_path):
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command.startswith(f"# python -m src.train experiment={path.stem}")
    with composed(tmp_path, [f"experiment={path.stem}"]) as cfg:
        assert cfg.name == path.stem


@pytest.mark.parametrize(("sigma", "epsilon", "draws"), [(0.25, 1, 4), (0.5, 1, 8), (1.0, 2, 2)])
def test_smoothadv_has_its_published_settings_at_every_sigma(tmp_path, sigma, epsilon, draws):
    with composed(tmp_path, ["experiment=cifar_smoothadv", f"sigma={sigma}"]) as cfg:
        assert (cfg.attack.epsilon, cfg.attack.steps) == (epsilon, 10)
        assert cfg.objective.noise_draws == draws


def test_reference_schedules(tmp_path):
    for experiment, epochs, step, batch in (
        ("cifar_reg", 150, 50, 256),
        ("imagenet_reg", 90, 30, 256),
    ):
        with composed(tmp_path, [f"experiment={experiment}"]) as cfg:
            assert cfg.trainer.max_epochs == epochs
            assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.1, 0.9)
            assert (cfg.optimizer.weight_decay, cfg.scheduler.gamma) == (1e-4, 0.1)
            assert cfg.scheduler.step_size == step
            assert cfg.data.batch_size * cfg.trainer.accumulate_grad_batches == batch


def test_reg_adv_differs_from_reg_by_the_attack(tmp_path):
    for data in ("cifar", "imagenet"):
        with composed(tmp_path, [f"experiment={data}_reg"]) as plain:
            plain = OmegaConf.to_container(plain, resolve=True)
        with composed(tmp_path, [f"experiment={data}_reg_adv"]) as adversarial:
            adversarial = OmegaConf.to_container(adversarial, resolve=True)
        different = {name for name in plain if plain[name] != adversarial[name]}
        assert different <= {"name", "attack", "logger", "callbacks"}
        assert plain["callbacks"]["certification"]["configuration"] == {
            "data": "cifar10" if data == "cifar" else "imagenet"
        }


def test_no_default_points_outside_the_project(tmp_path):
    for path in CONF.rglob("*.yaml"):
        assert "../" not in path.read_text()
        assert not any(word in path.read_text() for word in (": /", "shared"))


def test_the_sweep_for_wandb_sets_what_there_is(tmp_path):
    """In commands as W&B's agent would write them."""
    sweep = OmegaConf.load(CONF / "wandb" / "sweep.yaml")
    values = {
        name: part.get("values", [part.get("value")]) for name, part in sweep.parameters.items()
    }
    assert (ROOT / sweep.program).is_file()
    # Each value of each setting once; the shorter lists start again.
    for number in range(max(map(len, values.values()))):
        overrides = [f"{name}={each[number % len(each)]}" for name, each in values.items()]
        with composed(tmp_path, overrides) as cfg:
            assert cfg.logger.wandb.group == sweep.name
            assert cfg.sigma in values["sigma"]


COMMANDS = {
    "train": ["passes=10"],
    "certify": ["run=x", *("sigma=1", "alpha=0.5", "n0=1", "n=1", "seed=0", "max_images=1")],
    "benchmark": [],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_settings_of_another_kind_are_refused_by_their_name(name, tmp_path):
    """Whatever a command has of its own that is a number, and radii."""
    with composed(tmp_path, COMMANDS[name], name) as cfg:
        check_given(cfg)
        given = [key for key in cfg if key in RANGES or key == "radii"]
        assert {"sigma", "alpha", "n", "n0", "seed", "radii"} <= set(given)
        for key in given:
            for wrong in ("abc", -1, [], [0.5], 10.5 if key == "seed" else -0.5, float("inf")):
                if key == "radii" and wrong == [0.5]:
                    continue
                changed = OmegaConf.merge(cfg, {key: wrong})
                with pytest.raises(InvalidArgumentError, match=f"^Expected `{key}` .*, got "):
                    check_given(changed)


@pytest.mark.parametrize(
    "wrong",
    [
        *("input_shape=abc", "input_shape=[32]", "mean=[0.5]", "std=[0.1,0.2,abc]"),
        *("executions=null", "device=abc", "device=abc task=methods"),
        *(f"{each} task=sizing" for each in ("devices=2", "processes=abc", "test_sets=abc")),
        "certify=abc task=sizing",
    ],
)
def test_a_benchmark_refuses_settings_of_another_kind_before_it_measures(wrong, tmp_path):
    with (
        composed(tmp_path, wrong.split(), "benchmark") as cfg,
        pytest.raises(InvalidArgumentError, match=f"^Expected `{wrong.partition('=')[0]}` "),
    ):
        benchmarking.benchmark(cfg)


@pytest.mark.parametrize("wrong", ["task=throughput readme=x", "task=methods processes=[1]"])
def test_settings_of_another_task_are_refused(wrong, tmp_path):
    with (
        pytest.raises(ConfigCompositionException, match="Could not override"),
        composed(tmp_path, wrong.split(), "benchmark"),
    ):
        pass


def test_seeds_that_numpy_does_not_take_are_refused(tmp_path):
    with (
        composed(tmp_path, [f"seed={2**32}"]) as cfg,
        pytest.raises(InvalidArgumentError, match=r"^Expected `seed` below 4294967296, got"),
    ):
        check(cfg)


@pytest.mark.parametrize("radii", ["abc", "012", 0.5, [], [0, "abc"], [0.5, 0.25], [0, None], [-1]])
def test_radii_that_are_no_rising_list_are_refused(radii):
    with pytest.raises(
        InvalidArgumentError, match=r"^Expected `radii` an increasing list .*\[0,0.5,1\], got"
    ):
        check_given(OmegaConf.create({"radii": radii}))


@pytest.mark.parametrize("device", ["abc", None, 0, "cuda:x", "gpu", ""])
def test_devices_that_are_none_are_refused(device):
    with pytest.raises(InvalidArgumentError, match=r"^Expected `device` auto, cpu, cuda or cuda:1"):
        device_of(device)


def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_of("cuda:1") == "cuda:1"
    with pytest.raises(InvalidArgumentError, match="got 'cuda:2': 2 GPUs here"):
        device_of("cuda:2")
