"""Run folders from anywhere: what they may call, set, and write to."""

import json
import os
import re
import socket
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from smoothcert import commands
from smoothcert.commands.certification import trained_configuration
from smoothcert.commands.commandline import overrides_of, read_yaml
from smoothcert.commands.security import check_places, check_targets, trusted
from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import RunFolder, check_links
from tests.helpers.support import CONF, composed, guarded

CONFIGURATION = {
    "name": "run",
    "sigma": 0.25,
    "seed": 0,
    "data": {"_target_": "smoothcert.data.DigitsDataModule"},
    "model": {"_target_": "smoothcert.models.small_cnn", "width": "${size}"},
    "certifier": {"_target_": "smoothcert.certify.TightCertifier"},
    "size": 4,
}
MODULE = """
import os, subprocess
from torch.nn.functional import cross_entropy
from torch.optim import SGD

class HardDraws:
    @classmethod
    def made(cls): ...
    @staticmethod
    def also(): ...

def network(): ...

draws = HardDraws()
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder in a project, where its user works and has modules."""
    folder = tmp_path / "outputs" / "run"
    (folder / ".hydra").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in (None, *map(str, tmp_path.rglob("*"))):
            del sys.modules[name]


def written(path, text=MODULE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def calling(target, place="model.inner"):
    values = {"_target_": target}
    for name in reversed(place.split(".")):
        values = {name: values}
    return values


def refused(target, run, place="model.inner", **options):
    with pytest.raises(InvalidArgumentError) as caught:
        check_targets(calling(target, place), run / "config.yaml", run, **options)
    return str(caught.value)


OPTIONS = [
    path.relative_to(CONF)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.relative_to(CONF).parts[0] not in ("hydra", "wandb")
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_what_our_configurations_call_is_allowed_where_they_call_it(option, run):
    values = OmegaConf.to_container(OmegaConf.load(CONF / option))
    values.pop("defaults", None)
    if len(option.parts) > 1 and "@package _global_" not in (CONF / option).read_text():
        values = {option.parts[0]: values}
    for owner in ("objective", "attack") if "warmup" in values else (None,):
        placed = values if owner is None else {owner: values}
        check_targets(placed, run / "config.yaml", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("optimizer", "torch.optim.RMSprop"),
        ("optimizer", "torch.optim.Adafactor"),
        ("scheduler", "torch.optim.lr_scheduler.LinearLR"),
        ("model.head", "torch.nn.modules.linear.Linear"),
        ("objective.loss", "torch.nn.CrossEntropyLoss"),
        ("objective.teacher", "smoothcert.models.small_cnn"),
        ("model", "torchvision.models.resnet18"),
        ("model", "torchvision.models.ResNet"),
        ("model.parts.0", "smoothcert.models.wide_resnet"),
        ("callbacks.stop", "pytorch_lightning.callbacks.EarlyStopping"),
        ("callbacks.bar", "pytorch_lightning.callbacks.RichProgressBar"),
        (
            "callbacks.bar.theme",
            "pytorch_lightning.callbacks.progress.rich_progress.RichProgressBarTheme",
        ),
        ("callbacks.second.certifier", "smoothcert.certify.CohenCertifier"),
        ("logger.other", "pytorch_lightning.loggers.CSVLogger"),
        ("trainer.profiler", "pytorch_lightning.profilers.SimpleProfiler"),
        ("trainer.strategy", "pytorch_lightning.strategies.DDPStrategy"),
        ("trainer.plugins.0", "pytorch_lightning.plugins.environments.SLURMEnvironment"),
        ("objective", "smoothcert.objectives.adre.ADRE"),
    ],
)
def test_what_users_of_these_libraries_name_is_allowed(place, target, run):
    check_targets(calling(target, place), run / "config.yaml", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        # They write where their arguments say, which is looked at in other places alone.
        ("model.evil", "smoothcert.report.plot_certified_accuracy"),
        ("model.evil", "smoothcert.report.figures.plot_certified_accuracy"),
        ("callbacks.evil", "smoothcert.report.plot_certified_accuracy"),
        ("callbacks.certification.plot.path", "smoothcert.report.plot_certified_accuracy"),
        ("model.evil", "pytorch_lightning.callbacks.ModelCheckpoint"),
        ("data.evil", "pytorch_lightning.loggers.TensorBoardLogger"),
        ("objective.evil", "smoothcert.lightning.ResumingCSVLogger"),
        ("callbacks.evil", "smoothcert.lightning.wandb_logger"),
        ("certifier.evil", "pytorch_lightning.profilers.SimpleProfiler"),
        # Parts in each other's places.
        *(("model", "torch.optim.SGD"), ("optimizer", "torch.nn.Linear")),
        *(("certifier", "smoothcert.data.DigitsDataModule"), ("trainer", "torch.nn.Linear")),
        # Where nothing is called.
        *(("evil", "torch.nn.Linear"), ("speed.evil", "torch.nn.Linear")),
        *(("callbacks", "torch.nn.Linear"), ("paths", "my_objective.HardDraws")),
        ("evil.a.b", "my_objective.HardDraws"),
    ],
)
def test_what_belongs_elsewhere_is_refused_with_its_place(place, target, run, tmp_path):
    written(tmp_path / "my_objective.py")
    for options in ({}, {"all_used": False}):
        message = refused(target, run, place, **options)
        assert f"calls {target!r} as {place!r}, which is not allowed" in message


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "subprocess.Popen", "functools.partial", "pickle.loads"),
        # Of libraries, but not of what they offer to configurations.
        *("torch.load", "torch.hub.load", "torch.utils.cpp_extension.load", "numpy.load"),
        *("hydra.utils.instantiate", "omegaconf.OmegaConf.load", "wandb.init", "yaml.load"),
        *("pytorch_lightning.cli.LightningCLI", "torch.nn.functional.cross_entropy"),
        "pytorch_lightning.LightningModule.load_from_checkpoint",
        # Ours, with paths to write to as arguments; and those by another way.
        *("smoothcert.records.write_atomically", "smoothcert.records.CertificateFile"),
        *("smoothcert.data.write_thumbnails", "smoothcert.commands.train", "src.train.train"),
        *("smoothcert.benchmarks.VoteLog", "src.smoothcert.records.write_atomically"),
        "tests.support.composed",
        # From an allowed module into another one.
        *("smoothcert.data.base.torch.hub.load", "torch.nn.modules.os.system"),
        *("torch.optim.optimizer.functools.partial", "smoothcert.models.checkpoints.re.compile"),
        # Neither class nor function, or somebody's inside.
        *("smoothcert.models", "smoothcert.models.SmallCNN.forward", "torch.nn.Module.__init__"),
        *("smoothcert", "", "os", ".os.system", "torch..nn", "os.system ", "__main__.run"),
        *("${name}", "torch.nn.${name}", None, 5, "smoothcert.report.print_summary"),
        *("smoothcert.objectives.NoSuch", "torch.nn.NoSuch.inner"),
    ],
)
def test_everything_else_is_refused_with_its_name_and_the_files(target, run):
    for options in ({}, {"all_used": False}):
        message = refused(target, run, **options)
        expected = f"{run / 'config.yaml'} calls {target!r} as 'model.inner', which is not allowed"
        assert message.startswith(expected)
        assert "Allowed there are torch.nn, torchvision.models, timm.models" in message


def test_what_is_refused_is_not_imported(run):
    for name in ("this", "setuptools", "antigravity"):
        sys.modules.pop(name, None)
        refused(f"{name}.thing", run)
        assert name not in sys.modules


@pytest.mark.parametrize("target", ["timm.models.resnet18", "timm.models.VisionTransformer"])
def test_networks_of_timm_are_allowed(target, run):
    pytest.importorskip("timm")
    check_targets(calling(target), run / "config.yaml", run)


LOADING = ["create_model", "models.load_checkpoint", "models.load_pretrained"]


@pytest.mark.parametrize("name", LOADING)
def test_what_loads_files_by_timm_is_refused(name, run):
    pytest.importorskip("timm")
    refused(f"timm.{name}", run)


@pytest.mark.parametrize(
    "target",
    [
        "my_objective.HardDraws",
        "my_objective.network",
        "my_parts.inner.objective.HardDraws",
        "my_package.objective.HardDraws",
    ],
)
def test_a_module_of_the_users_own_is_allowed(target, run, tmp_path):
    written(tmp_path / "my_objective.py")
    written(tmp_path / "my_parts" / "inner" / "objective.py")
    written(tmp_path / "my_package" / "objective.py")
    written(tmp_path / "my_package" / "__init__.py", "")
    check_targets(calling(target), run / "config.yaml", run)
    # What a user has imported on purpose may be called where it might have been by its own name.
    check_targets(calling("my_objective.SGD", "optimizer"), run / "config.yaml", run)
    refused("my_objective.SGD", run)


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.Popen", "cross_entropy", "HardDraws.made", "HardDraws.also", "draws"],
)
def test_what_such_a_module_has_imported_is_refused(name, run, tmp_path):
    written(tmp_path / "my_objective.py")
    refused(f"my_objective.{name}", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("outputs/run/evil.py", "outputs.run.evil.HardDraws"),
        # What came with the folder in one archive.
        ("outputs/evil.py", "outputs.evil.HardDraws"),
        ("outputs/other/__init__.py", "outputs.other.HardDraws"),
        ("outputs/__init__.py", "outputs.HardDraws"),
        ("lib/site-packages/evil.py", "evil.HardDraws"),
    ],
)
def test_a_module_that_came_with_the_folder_is_never_imported(
    place, target, run, tmp_path, monkeypatch
):
    touched = tmp_path / "touched"
    monkeypatch.syspath_prepend(str(tmp_path / "lib" / "site-packages"))
    written(tmp_path / place, f"open({str(touched)!r}, 'w').close()\n{MODULE}")
    refused(target, run)
    assert not touched.exists()


@pytest.mark.parametrize("packages", [["outputs"], ["outputs", "outputs/run"], ["outputs/run"]])
@pytest.mark.parametrize("name", ["outputs.evil", "outputs.run.evil", "outputs.code.evil"])
def test_a_package_that_holds_the_run_is_not_the_users(packages, name, run, tmp_path):
    touched = tmp_path / "touched"
    for package in packages:
        written(tmp_path / package / "__init__.py", f"open({str(touched)!r}, 'w').close()")
    written(tmp_path / f"{name.replace('.', '/')}.py", f"open({str(touched)!r}, 'w').close()")
    refused(f"{name}.HardDraws", run)
    assert not touched.exists()


def test_a_package_within_ones_own_that_holds_the_run_is_not_the_users(run, tmp_path):
    inner = written(tmp_path / "mine" / "runs" / "evil.py").parent
    for folder in (inner, inner.parent):
        written(folder / "__init__.py", "")
    (inner / "run").mkdir()
    refused("mine.runs.evil.HardDraws", inner / "run")
    check_targets(calling("mine.runs.evil.HardDraws"), run / "config.yaml", run)


def test_a_package_holds_a_run_by_links_too(run, tmp_path):
    written(run.parent / "__init__.py", "")
    written(run.parent / "evil.py")
    (tmp_path / "linked").symlink_to(run.parent)
    refused("linked.evil.HardDraws", run)
    # And a run that is a link itself, beside what came with it.
    (tmp_path / "elsewhere").mkdir()
    (run.parent / "latest").symlink_to(tmp_path / "elsewhere")
    refused("outputs.evil.HardDraws", run.parent / "latest")
    refused("outputs.evil.HardDraws", tmp_path / "linked" / "latest")


def test_a_link_to_a_module_in_the_folder_is_no_module_of_the_users(run, tmp_path):
    (tmp_path / "mine.py").symlink_to(written(run / "evil.py"))
    refused("mine.HardDraws", run)


def test_a_module_that_is_not_here_is_said_where_it_is_needed(run):
    assert "no such module is found: put its folder into PYTHONPATH" in refused("nowhere.X", run)
    check_targets(calling("nowhere.X"), run / "config.yaml", run, all_used=False)


def test_a_module_that_fails_is_said(run, tmp_path):
    written(tmp_path / "my_broken.py", "import not_installed")
    assert "my_broken cannot be imported: ModuleNotFoundError" in refused("my_broken.X", run)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"model": {"arguments": {"checkpoint_path": "x"}}}, "files"),
        ({"model": {"arguments": {"pretrained_cfg_overlay": {"file": "x"}}}}, "files"),
        ({"model": {"_target_": "torch.nn.Linear", "_args_": [1, 2]}}, "arguments by position"),
        ({"model": {"arguments": {"cache_dir": "x"}}}, "folders"),
        ({"logger": {"a": {"settings": {"https_proxy": "http://elsewhere"}}}}, "servers"),
        ({"callbacks": {"a": {"base_url": "http://elsewhere"}}}, "servers"),
        ({"a": {"_target_": ["os.system"]}}, "targets in parts"),
        ({"logger": {"a": {"tracking_uri": "http://elsewhere"}}}, "servers"),
    ],
)
def test_settings_that_would_name_files_or_servers_are_refused(values, what, run):
    with pytest.raises(
        InvalidArgumentError, match=rf"sets .*, and a run folder may name no {what}"
    ):
        check_targets(values, run / "config.yaml", run)


# Runs that are resumed.


def saved(run, *overrides):
    """Leave a run's configuration as Hydra does."""
    with composed(run, overrides) as cfg:
        OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
        OmegaConf.save({"hydra": HydraConfig.get()}, run / ".hydra" / "hydra.yaml")
        OmegaConf.save(list(overrides), run / ".hydra" / "overrides.yaml")
        return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=digits_reg_adv", "logger=many", "callbacks=ema", "seed=3"],
        ["experiment=cifar_fast_smoothadv", "size=gpu", "speed=plain", "~callbacks.best"],
        ["trainer=slurm", "debug=profile", "~logger", "scheduler=one_cycle", "optimizer=adamw"],
        ["data=image_folder", "data.root='/a b'", "paths.data=/x", "ckpt_path=../other/last.ckpt"],
        ["objective=macer", "warmup@objective.warmup=linear", "+note='${sigma}'"],
    ],
)
def test_a_run_is_resumed_with_the_configuration_that_it_has_saved(overrides, run):
    before = saved(run, *overrides)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config = guarded("train", f"run={run}")
    with open_dict(config):
        hydra = config.pop("hydra")
    assert OmegaConf.to_container(config) == before
    assert (hydra.run.dir, hydra.output_subdir) == (str(run), None)
    kind = OmegaConf.load(CONF / "data" / f"{hydra.runtime.choices.data}.yaml")
    assert kind._target_ == before["data"]["_target_"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_run_keeps_its_settings_where_defaults_have_changed(run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config.optimizer.lr, config.old = 0.125, 1
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    resumed = guarded("train", f"run={run}")
    assert (resumed.optimizer.lr, resumed.old) == (0.125, 1)


@pytest.mark.parametrize("part", ["objective", "attack", "optimizer", "scheduler", "trainer"])
def test_every_part_of_a_resumed_run_is_checked(part, run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config[part]._target_ = "os.system"
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    with pytest.raises(SystemExit, match=rf"config\.yaml calls 'os\.system' as '{part}', which is"):
        guarded("train", f"run={run}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callbacks": {"x": {"_target_": "os.system"}}}, "calls 'os.system' as 'callbacks.x'"),
        ({"logger": {"x": "${y}"}, "y": {"_target_": "os.system"}}, "calls 'os.system' as 'y'"),
        ({"optimizer": "${oc.create:'{_target_: os.system}'}"}, "it makes values"),
        ({"note": "${oc.env:DATABASE_URL}"}, "it reads DATABASE_URL from the environment"),
        ({"note": "${oc.decode:${oc.env:HOME,1}}"}, "it makes values"),
        ({"hydra": {"job": {"env_set": {"LD_PRELOAD": "x.so"}}}}, "sets hydra, and a run folder"),
        ({"model": {"arguments": {"checkpoint_path": "x"}}}, "may name no files"),
        ({f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 30)}, "by interpolation"),
        ({"objective": {"_target_": "nowhere.Objective"}}, "no such module is found"),
    ],
)
def test_a_run_that_does_more_is_not_resumed(changes, message, run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    OmegaConf.save({**config, **changes}, run / ".hydra" / "config.yaml")
    with pytest.raises(SystemExit) as caught:
        guarded("train", f"run={run}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choices_are_not_interpolated(run):
    saved(run)
    path = run / ".hydra" / "hydra.yaml"
    path.write_text(path.read_text().replace("data: digits", "data: ${oc.env:HOME}"))
    with pytest.raises(SystemExit, match=r"hydra\.yaml is damaged: expected plain choices"):
        guarded("train", f"run={run}")


@pytest.mark.parametrize(
    "override",
    [
        *("--config-dir=/x", "hydra.run.dir=/x", "+hydra.searchpath=[/x]", "hydra/launcher=x"),
        *(
            "+callbacks.x={_target_: os.system}",
            "experiment=../../evil",
            "model._target_=os.system",
        ),
        *("name=${oc.env:HOME}", "+experiment@hydra=x"),
    ],
)
def test_no_command_to_paste_has_overrides_that_do_more(override, run):
    saved(run)
    written(run / ".hydra" / "overrides.yaml", json.dumps(["sigma=0.5", override]))
    with pytest.raises(SystemExit, match="nothing else may be set") as caught:
        guarded("train", f"run={run}", "trainer.max_epochs=8")
    assert override not in str(caught.value)
    assert "the command that it was started with, and trainer.max_epochs=8 ckpt_" in str(
        caught.value
    )


DAMAGED = ["a: 1", "just a text", "[", "- !!python/object:os.x {}", "\0"]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_overrides_are_named(content, run):
    written(run / ".hydra" / "overrides.yaml", content)
    with pytest.raises(RecordsError, match=r"overrides\.yaml is damaged"):
        overrides_of(RunFolder(run))


# The configuration of a training.


def configuration(**changes):
    return OmegaConf.create({**CONFIGURATION, **changes})


def test_certification_gets_plain_values(run):
    taken = trusted(configuration(other=1), OmegaConf.create({"data": "here"}), run)
    assert "other" not in taken
    assert OmegaConf.to_container(taken)["model"]["width"] == 4


def test_places_on_this_machine_replace_the_runs(run):
    config = configuration(paths={"data": "there"}, data={"root": "${paths.data}/x"})
    assert trusted(config, OmegaConf.create({"data": "here"}), run).data.root == "here/x"


EVIL = "{_target_: os.system, command: ls}"


@pytest.mark.parametrize(
    "changes",
    [
        {"callbacks": {"a": {"_target_": "os.system"}}},
        {"model": {"_target_": "torch.nn.Linear", "inner": [{"_target_": "os.system"}]}},
        {"model": "${other}", "other": {"_target_": "os.system"}},
        # Only to be seen once it is resolved.
        {"model": f"${{oc.create:'{EVIL}'}}"},
        {"model": {"inner": "${oc.create:${text}}"}, "text": EVIL},
        {"model": "${for_sigma:1,{1:{_target_:os.system}}}"},
        {"model": {"_target_": "${name}"}, "name": "os.system"},
        # And this would be a step later.
        {"model": {"inner": r"\${oc.create:'" + EVIL + "'}"}},
    ],
)
def test_a_target_is_found_however_it_is_written(changes, run):
    with pytest.raises(InvalidArgumentError, match=r"\.hydra/config\.yaml (calls|sets) "):
        trusted(configuration(**changes), OmegaConf.create({}), run)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "${oc.env:DATABASE_URL}"},
        {"name": "${ oc.env : DATABASE_URL }"},
        {"name": "${oc.env:${other}}", "other": "DATABASE_URL"},
        {"name": "${${other}}", "other": "oc.env:DATABASE_URL"},
        {"name": "${other}", "other": {"a": "b ${oc.env:DATABASE_URL,x}"}},
        {"name": "${other.a}", "other": "${third}", "third": {"a": "${oc.env:DATABASE_URL}"}},
        {"data": {"root": "${.other}", "other": "${oc.env:DATABASE_URL}"}},
        {"name": "${oc.decode:'${other}'}", "other": "${oc.env:DATABASE_URL}"},
        {"name": "${oc.select:other}", "other": "${oc.env:DATABASE_URL}"},
        {"name": "${for_sigma:1,{1:${oc.env:DATABASE_URL}}}"},
    ],
)
def test_the_environment_is_not_read(changes, run, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://somebody:something@somewhere")
    with pytest.raises(InvalidArgumentError, match=r"\.hydra/config\.yaml sets ") as caught:
        trusted(configuration(**changes), OmegaConf.create({}), run)
    assert "postgres" not in str(caught.value)


def test_what_ones_own_paths_read_of_the_environment_is_ones_own(run, monkeypatch):
    monkeypatch.setenv("MY_DATA", "here")
    paths = OmegaConf.create({"data": "${oc.env:MY_DATA}"})
    config = configuration(data={"root": "${paths.data}/x"})
    assert trusted(config, paths, run).data.root == "here/x"
    monkeypatch.setenv("SCRATCH", "there")
    config = configuration(data={"root": "${oc.env:SCRATCH}/x"})
    assert trusted(config, paths, run).data.root == "there/x"


LISTS = {"a0": ["x"] * 9, **{f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 30)}}
TEXTS = {"a0": "x" * 9, **{f"a{n}": f"${{a{n - 1}}}" * 9 for n in range(1, 30)}}


@pytest.mark.parametrize("many", [LISTS, TEXTS], ids=["lists", "texts"])
def test_what_grows_by_interpolation_is_refused_at_once(many, run):
    """It would be 9 to the power of 30 values."""
    with pytest.raises(InvalidArgumentError, match="to more than 100,000 characters by interpol"):
        trusted(configuration(**many, model="${a29}"), OmegaConf.create({}), run)
    # What is not needed is not interpolated.
    assert trusted(configuration(**many), OmegaConf.create({}), run).name == "run"


def test_what_leads_back_to_itself_is_damaged(run):
    config = configuration(name="${other}", other="${name}")
    with pytest.raises(RecordsError, match=r"config\.yaml is damaged"):
        trusted(config, OmegaConf.create({}), run)


def test_a_run_by_an_objective_that_is_not_here_is_certified(run):
    config = configuration(objective={"_target_": "nowhere.Objective"})
    assert trusted(config, OmegaConf.create({}), run).name == "run"
    with pytest.raises(InvalidArgumentError, match="no such module"):
        trusted(configuration(model={"_target_": "nowhere.net"}), OmegaConf.create({}), run)


@pytest.mark.parametrize(
    "config",
    [
        OmegaConf.create([1]),
        OmegaConf.create({"name": "run"}),
        configuration(seed="${nowhere}"),
        configuration(sigma="???"),
    ],
)
def test_a_damaged_configuration_is_named(config, run):
    with pytest.raises(RecordsError, match=r"\.hydra/config\.yaml is damaged"):
        trusted(config, OmegaConf.create({}), run)


def test_yaml_makes_no_objects(run, tmp_path):
    path = tmp_path / "touched"
    written(run / ".hydra" / "config.yaml", f"a: !!python/object/apply:os.mkdir ['{path}']\n")
    with pytest.raises(RecordsError, match=r"config\.yaml is damaged: .*python/object/apply"):
        read_yaml(RunFolder(run), "config")
    assert not path.exists()


ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ALIASES, "expected no aliases"),
        ("[" * 30_000, "expected at most 10,000 values, 50 deep"),
        ("a: {" * 15_000, "expected at most 10,000 values, 50 deep"),
        ("[" + "1," * 30_000 + "]", "expected at most 10,000 values"),
        ("a: " + "x" * 100_000, "expected at most 65,536 bytes"),
    ],
    ids=["aliases", "deep lists", "deep mappings", "many", "long"],
)
@pytest.mark.parametrize("name", ["config", "overrides", "hydra"])
def test_yaml_that_would_keep_the_machine_busy_is_refused(name, text, what, run):
    written(run / ".hydra" / f"{name}.yaml", text)
    with pytest.raises(RecordsError, match=f"{name}.yaml is damaged: .*{what}"):
        read_yaml(RunFolder(run), name)


# Places.


def checked(folder, *overrides):
    with composed(folder, ["trainer=cpu", *overrides]) as cfg:
        check_places(cfg)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["logger=many", "name=a/b"],
        ["callbacks=ema", "callbacks.best.filename=best"],
        ["~logger"],
        ["~callbacks"],
        ["callbacks.best.dirpath=null", "callbacks.last=null"],
        ["callbacks.best.dirpath='{run}/other'"],
        ["data.root=/somewhere", "ckpt_path=../x.ckpt", "model.weights=/x.pt", "data=cifar10"],
    ],
)
def test_what_lies_in_the_run_folder_is_fine(overrides, tmp_path):
    checked(tmp_path, *(each.format(run=tmp_path) for each in overrides))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("paths.run=/elsewhere", "paths.run"),
        ("callbacks.best.dirpath=/elsewhere", "callbacks.best.dirpath"),
        # Such a path leads from where the command is started.
        ("callbacks.best.dirpath=checkpoints", "callbacks.best.dirpath"),
        ("callbacks.last.dirpath='{run}/../x'", "callbacks.last.dirpath"),
        ("callbacks.last.dirpath='{run}x'", "callbacks.last.dirpath"),
        ("callbacks.last.filename=../../x", "callbacks.last.filename"),
        ("callbacks.best.dirpath='~/x'", "callbacks.best.dirpath"),
        ("callbacks.best.dirpath='s3://bucket/x'", "callbacks.best.dirpath"),
        ("callbacks.certification.folder=/elsewhere", "callbacks.certification.folder"),
        ("logger.csv.folder=/elsewhere", "logger.csv.folder"),
        ("+logger.x={{save_dir: /elsewhere}}", "logger.x.save_dir"),
        ("+logger.csv.name=../x", "logger.csv.name"),
        ("+logger.csv.version=/x", "logger.csv.version"),
        ("trainer.default_root_dir=/elsewhere", "trainer.default_root_dir"),
        ("trainer.default_root_dir=null", "trainer.default_root_dir"),
        ("trainer.profiler={{dirpath: /elsewhere}}", "trainer.profiler.dirpath"),
        ("+callbacks.certification.plot.path=/x.png", "callbacks.certification.plot.path"),
        ("+callbacks.x={{exclude_batches_path: /x}}", "callbacks.x.exclude_batches_path"),
    ],
)
def test_what_would_be_written_elsewhere_is_refused_with_its_key(override, key, tmp_path):
    with pytest.raises(InvalidArgumentError) as caught:
        checked(tmp_path, override.format(run=tmp_path))
    start = f"Expected `{key}` inside the run folder {tmp_path}, got "
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize(
    "override",
    [
        "+model.evil={_target_: smoothcert.report.plot_certified_accuracy, path: '/x.png'}",
        # What no override names, but leads to.
        "+model.evil=${callbacks.certification.plot}",
        "+objective.evil=[{a: '${logger}'}]",
        "+evil=${callbacks.best}",
    ],
)
def test_what_writes_is_called_by_parts_that_are_looked_at_alone(override, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"in callbacks, logger, trainer, got it in `"):
        checked(tmp_path, override)


def test_a_training_begins_with_this_check(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    overrides = ["trainer=cpu", f"callbacks.best.dirpath={elsewhere}"]
    with (
        composed(tmp_path / "run", overrides) as cfg,
        pytest.raises(SystemExit, match=r"`callbacks\.best\.dirpath` inside the run folder"),
    ):
        commands.train(cfg)
    assert not elsewhere.exists()


@pytest.mark.parametrize("place", ["checkpoints", "metrics.csv", ".hydra/config.yaml", "a/b/c"])
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_written(place, run, tmp_path):
    OmegaConf.save(["sigma=0.5"], run / ".hydra" / "overrides.yaml")
    link, elsewhere = run / place, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    expected = re.escape(f"in the run folder {run}, got {link}, a link to {elsewhere}")
    with pytest.raises(SystemExit, match=expected):
        guarded("train", "sigma=0.5", f"hydra.run.dir={run}")
    with pytest.raises(RecordsError, match=expected):
        checked(run)
    if place != ".hydra/config.yaml":
        written(run / ".hydra" / "config.yaml", "")
    for command in ("certify", "train"):
        with pytest.raises(SystemExit, match=f"{expected}|has no .hydra/config.yaml"):
            guarded(command, f"run={run}")
    with pytest.raises(RecordsError, match=expected):
        trained_configuration(RunFolder(run), OmegaConf.create({}))


def test_links_within_the_folder_and_to_it_are_fine(run, tmp_path):
    written(run / "checkpoints" / "epoch=3.ckpt")
    (run / "checkpoints" / "last.ckpt").symlink_to("epoch=3.ckpt")
    (run / "loop").symlink_to("loop")
    # W&B links to its own logs.
    (run / "wandb" / "offline-run" / "logs").mkdir(parents=True)
    (run / "wandb" / "offline-run" / "logs" / "core.log").symlink_to(tmp_path / "core.log")
    check_links(run)
    (tmp_path / "latest").symlink_to(run)
    check_links(tmp_path / "latest")
    checked(tmp_path / "latest")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket"])
def test_only_files_are_opened_in_a_run_folder(kind, run):
    path = run / "x"
    if kind == "a FIFO":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.relpath(path))
    with pytest.raises(RecordsError, match=f"got {path}, which is not a regular file"):
        check_links(run)
    with pytest.raises(RecordsError, match=f"got {path}, which is not a regular file"):
        check_links(run, nested=False)


def test_hydra_itself_writes_through_no_link(run, tmp_path):
    (run / ".hydra").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (run / ".hydra").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"a link to .*/elsewhere"):
        guarded("train", f"hydra.run.dir={run}")


def test_certificates_are_not_written_through_a_link(run, tmp_path):
    written(run / ".hydra" / "config.yaml", "")
    guarded("certify", f"run={run}")
    (run / "certify").rename(tmp_path / "elsewhere")
    (run / "certify").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"got .*/certify, a link to .*/elsewhere"):
        guarded("certify", f"run={run}")
