"""Run folders from anywhere: what they may call, set, and write to."""

import json
import re
import sys

import pytest
from omegaconf import OmegaConf
from support import CONF, composed

from smoothcert import runs
from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.runs.commandline import read_yaml
from smoothcert.runs.places import check_links, check_places
from smoothcert.runs.trust import check_overrides, check_targets, trusted

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


def calling(target):
    return {"part": [{"_target_": "torch.nn.Identity", "inner": {"_target_": target}}]}


def refused(target, run, **options):
    with pytest.raises(InvalidArgumentError) as caught:
        check_targets(calling(target), run / "config.yaml", run, **options)
    return str(caught.value)


def targets_of(values):
    if isinstance(values, dict):
        yield from (value for name, value in values.items() if name == "_target_")
        for value in values.values():
            yield from targets_of(value)


def our_own():
    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent.name != "hydra":
            yield from targets_of(OmegaConf.to_container(OmegaConf.load(path)))


@pytest.mark.parametrize("target", sorted(set(our_own())))
def test_what_our_configurations_call_is_allowed(target, run):
    check_targets(calling(target), run / "config.yaml", run)


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.RMSprop",
        "torch.optim.Adafactor",
        "torch.optim.lr_scheduler.LinearLR",
        "torch.nn.modules.linear.Linear",
        "torchvision.models.resnet18",
        "torchvision.models.ResNet",
        "pytorch_lightning.callbacks.EarlyStopping",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.profilers.SimpleProfiler",
        "pytorch_lightning.strategies.DDPStrategy",
        "pytorch_lightning.plugins.environments.SLURMEnvironment",
        "smoothcert.objectives.adre.ADRE",
    ],
)
def test_what_users_of_these_libraries_name_is_allowed(target, run):
    check_targets(calling(target), run / "config.yaml", run)


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
        *("smoothcert.data.write_thumbnails", "smoothcert.runs.train", "src.train.train"),
        *("smoothcert.benchmarks.VoteLog", "src.smoothcert.records.write_atomically"),
        "tests.support.composed",
        # From an allowed module into another one.
        *("smoothcert.data.base.torch.hub.load", "torch.nn.modules.os.system"),
        *("torch.optim.optimizer.functools.partial", "smoothcert.models.checkpoints.re.compile"),
        # Neither class nor function, or somebody's inside.
        *("smoothcert.models", "smoothcert.models.SmallCNN.forward", "torch.nn.Module.__init__"),
        *("smoothcert", "", "os", ".os.system", "torch..nn", "os.system ", "__main__.run"),
        *("${name}", "torch.nn.${name}", None, 5),
        *("smoothcert.objectives.NoSuch", "torch.nn.NoSuch.inner"),
    ],
)
def test_everything_else_is_refused_with_its_name_and_the_files(target, run):
    for options in ({}, {"all_used": False}):
        message = refused(target, run, **options)
        assert message.startswith(f"{run / 'config.yaml'} calls {target!r}, which is not allowed")
        assert "Allowed are classes of smoothcert, torch.optim, torch.nn" in message


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
        # What a user has imported on purpose, from where it may come.
        "my_objective.SGD",
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
        ({"a": {"_target_": "torch.nn.Linear", "_args_": [1, 2]}}, "arguments by position"),
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


# Overrides.

FINE = [
    *("sigma=0.5", "experiment=digits_reg", "callbacks.certification=null", "~callbacks.last"),
    *("objective._target_=smoothcert.objectives.ADRE", "+objective.weight=1e-3", "++trainer.x=1"),
    *("data.root='/my data/a,b'", "ckpt_path=../other/last.ckpt", "model.weights=../../w.pt"),
    *("model.freeze=[conv1,layer1]", "+model.arguments={img_size: 32}", "name='a, b'"),
    *("optimizer.lr=${scheduler.lr}", "+note='${sigma} and ${.x}'", "data.root=${oc.env:DATA,x}"),
]


@pytest.mark.parametrize("override", FINE)
def test_what_a_user_overrides_goes_on(override, run):
    OmegaConf.save([override], run / ".hydra" / "overrides.yaml")
    expanded = runs.expand_run(["src/train.py", f"run='{run}'"])
    kept = [f"hydra.run.dir='{run}'", "hydra.output_subdir=null"]
    assert expanded == ["src/train.py", override, *kept]


def test_an_objective_of_the_users_own_goes_on(run, tmp_path):
    written(tmp_path / "my_objective.py")
    check_overrides(["objective._target_=my_objective.HardDraws"], run)


@pytest.mark.parametrize(
    "override",
    [
        # Hydra's own.
        *("--config-dir=/x", "--multirun", "-m", "hydra.run.dir=/x", "+hydra.searchpath=[/x]"),
        *("hydra/launcher=x", "~hydra.job", "+hydra={a: b}", "+experiment@hydra=digits_reg"),
        *("+experiment@_global_.hydra.job=x", "+={a: b}", "+@hydra={a: b}"),
        # Options are files.
        *("experiment=../../evil", "+experiment=[digits_reg,'../../evil']", "debug='../x'"),
        # What makes values may make any.
        *("+x='${oc.create:\"{_target_: os.system}\"}'", "+x=${oc.decode:x}"),
        *(r"+x='\${oc.create:x}'", "+x='$${b}{oc.create:x}'", "+x={a: ['${oc.env:A,${b}}']}"),
        # What is no override of one run.
        *("", "a", "sigma=1,2", "sigma=range(3)", "a b", "{'a': 1}", "paths.run=/x"),
    ],
)
def test_overrides_that_do_more_are_refused_with_the_file(override, run):
    written(run / ".hydra" / "overrides.yaml", json.dumps([override]))
    with pytest.raises(InvalidArgumentError) as caught:
        runs.expand_run(["src/train.py", f"run={run}"])
    expected = f"Expected overrides of the configuration in {run / '.hydra' / 'overrides.yaml'}, "
    assert str(caught.value).startswith(f"{expected}got {override!r}: ")


@pytest.mark.parametrize(
    "override",
    [
        *("objective._target_=os.system", "+callbacks.x={_target_: os.system, command: ls}"),
        *("+callbacks.x=[{a: {_target_: os.system}}]", "++model.arguments.checkpoint_path=x"),
        *("objective._target_=${name}", "~objective._target_", "+a._target_.b=x"),
    ],
)
def test_targets_in_overrides_are_refused(override, run):
    with pytest.raises(InvalidArgumentError, match=r"overrides\.yaml (calls|sets) "):
        check_overrides([override], run)


def test_hydra_would_read_an_option_from_elsewhere(run, tmp_path):
    """What is refused above is a real way out of `conf/`."""
    written(tmp_path / "evil.yaml", "# @package _global_\nevil: true\n")
    up = "../" * len((CONF / "debug").parts)
    with composed(tmp_path, [f"debug={up}{tmp_path}/evil"]) as cfg:
        assert cfg.evil


DAMAGED = ["a: 1", "just a text", "[", "- !!python/object:os.x {}", "- +x=${a${b}}", "\0"]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_overrides_are_named(content, run):
    written(run / ".hydra" / "overrides.yaml", content)
    with pytest.raises(RecordsError, match=r"overrides\.yaml is damaged"):
        runs.expand_run(["src/train.py", f"run={run}"])


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
        read_yaml(run, "config.yaml")
    assert not path.exists()


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
    ],
)
def test_what_would_be_written_elsewhere_is_refused_with_its_key(override, key, tmp_path):
    with pytest.raises(InvalidArgumentError) as caught:
        checked(tmp_path, override.format(run=tmp_path))
    start = f"Expected `{key}` inside the run folder {tmp_path}, got "
    assert str(caught.value).startswith(start)


def test_a_training_begins_with_this_check(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    overrides = ["trainer=cpu", f"callbacks.best.dirpath={elsewhere}"]
    with (
        composed(tmp_path / "run", overrides) as cfg,
        pytest.raises(SystemExit, match=r"`callbacks\.best\.dirpath` inside the run folder"),
    ):
        runs.train(cfg)
    assert not elsewhere.exists()


@pytest.mark.parametrize("place", ["checkpoints", "metrics.csv", ".hydra/config.yaml", "a/b/c"])
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_written(place, run, tmp_path):
    OmegaConf.save(["sigma=0.5"], run / ".hydra" / "overrides.yaml")
    link, elsewhere = run / place, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    expected = re.escape(f"in the run folder {run}, got {link}, a link to {elsewhere}")
    for arguments in ([f"run={run}"], ["sigma=0.5", f"hydra.run.dir={run}"]):
        with pytest.raises(InvalidArgumentError, match=expected):
            runs.expand_run(["src/train.py", *arguments])
    with pytest.raises(InvalidArgumentError, match=expected):
        checked(run)


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


def test_certificates_are_not_written_through_a_link(run, tmp_path):
    written(run / ".hydra" / "config.yaml", "")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    runs.require_run(["src/certify.py", f"run={run}"])
    (run / "certify").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"got .*/certify, a link to .*/elsewhere"):
        runs.require_run(["src/certify.py", f"run={run}"])
