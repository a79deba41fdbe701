"""Every method: its table, its experiments, all combinations, and a user's own."""

import json
import random
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from smoothcert import commands
from smoothcert.benchmarks import count_passes
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import generator
from smoothcert.objectives import LogitsObjective
from smoothcert.report.markdown import marks, replace_part
from tests.helpers.methods import QUICK, names
from tests.helpers.pages import blocks
from tests.helpers.support import CONF, ROOT, composed
from tests.helpers.training import logged

MARKS = marks("methods", "python -m src.benchmark task=methods")
METHODS = (
    "gaussian",
    "reg",
    "reg_adv",
    "smoothadv",
    "smoothadv_ddn",
    "stability",
    "macer",
    "consistency",
    "smoothmix",
    "catrs",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the command that writes the table, and what it has printed."""
    folder = tmp_path_factory.mktemp("table")
    page = folder / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    with (
        composed(folder, ["task=methods", f"readme={page}"], "benchmark") as cfg,
        redirect_stdout(StringIO()) as printed,
    ):
        commands.benchmark(cfg)
    return folder, printed.getvalue()


def test_the_page_shows_the_table_that_the_configurations_give(written):
    page = (ROOT / "docs" / "methods.md").read_text()
    shown = page.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    assert shown == (written[0] / "methods.md").read_text().strip()


def test_the_table_has_every_method_with_its_source(written):
    rows = json.loads((written[0] / "benchmark.json").read_text())["results"]
    by_name = {row["experiment"]: row for row in rows}
    assert len(rows) == len(METHODS)
    assert by_name.keys() == {f"cifar_{name}" for name in METHODS}
    assert (by_name["cifar_macer"]["method"], by_name["cifar_macer"]["source"]) == (
        "MACER",
        "Zhai et al., 2020",
    )
    assert by_name["cifar_reg_adv"]["override"] == "objective=adre attack=pgd"
    assert "weight 20/10/10" in by_name["cifar_consistency"]["settings"]
    # Ten steps on m = 4/8/2 draws, and the m copies of the loss itself.
    assert by_name["cifar_smoothadv"]["extra_backward"] == [43, 87, 21]


def test_the_command_shows_the_table_and_replaces_a_files_own(written):
    folder, printed = written
    table = (folder / "methods.md").read_text()
    page = (folder / "page.md").read_text()
    assert page == f"before\n{MARKS[0]}\n\n{table}\n{MARKS[1]}\nafter\n"
    assert "CAT-RS" in printed


def test_a_file_without_the_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(InvalidArgumentError, match="Expected the marks"):
        replace_part(page, MARKS, "| a |\n")
    assert page.read_text() == "text\n"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_experiment_on_the_digits_with_the_same_parts(method, tmp_path):
    with composed(tmp_path, [f"experiment=cifar_{method}"]) as published:
        pass
    with composed(tmp_path, [f"experiment=digits_{method}"]) as digits:
        pass
    for part in ("objective", "attack"):
        assert digits[part]._target_ == published[part]._target_


@pytest.mark.parametrize("attack", names("attack"))
@pytest.mark.parametrize("objective", names("objective"))
def test_every_objective_takes_a_step_on_the_images_of_every_attack(
    objective, attack, tmp_path, network, batch
):
    with composed(tmp_path, [f"objective={objective}", f"attack={attack}"]) as cfg:
        loss_of, attacked_by = instantiate(cfg.objective), instantiate(cfg.attack)
    batch = replace(batch, noise=batch.noise[: loss_of.noise_draws])
    attacked = attacked_by(network, batch, generator("cpu", 2))
    loss = loss_of(network, batch.with_images(attacked.images), generator("cpu", 2)).value
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    assert abs(loss.item()) < 100


@pytest.mark.parametrize(
    ("objective", "attack"),
    [
        *((objective, "pgd") for objective in names("objective")),
        *(("gaussian", attack) for attack in names("attack") if attack != "pgd"),
    ],
)
def test_every_objective_and_every_attack_trains_in_bfloat16(objective, attack, tmp_path):
    """And stays finite under much noise."""
    overrides = [*QUICK, f"objective={objective}", f"attack={attack}"]
    overrides += ["trainer.precision=bf16-mixed", "sigma=1"]
    if attack != "none":
        overrides += ["attack.steps=2", "attack.epsilon=0.25", "attack.warmup.epochs=1"]
    with composed(tmp_path, overrides) as cfg:
        commands.train(cfg)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["objective"], summary["attack"]) == (objective, attack)
    losses = [float(row["train/loss"]) for row in logged(tmp_path) if row["train/loss"]]
    assert len(losses) == 2
    assert all(abs(loss) < 100 for loss in losses)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}


FAST = sorted(path.stem for path in (CONF / "experiment").glob("cifar_fast_*.yaml"))


@pytest.mark.parametrize("experiment", FAST)
def test_fast_experiments_get_an_equal_number_of_passes(experiment, tmp_path):
    with composed(tmp_path, [f"experiment={experiment}", "sigma=0.5"]) as cfg:
        objective, attack = instantiate(cfg.objective), instantiate(cfg.attack)
        passes = count_passes(objective, attack, 0.5).forward
        assert cfg.passes == 18
        assert cfg.trainer.max_epochs == 18 // passes
        assert cfg.model.width == 32


def test_the_size_decides_the_network_and_the_number_of_passes(tmp_path):
    with composed(tmp_path, ["experiment=cifar_fast_reg", "size=gpu"]) as cfg:
        assert (cfg.model.width, cfg.model.blocks, cfg.trainer.max_epochs) == (128, 2, 240)


PUBLISHED = {
    # What papers and their code give at sigma .25, .5 and 1.
    "cifar_stability": {"objective.weight": (2, 2, 1), "objective.noise_draws": (1, 1, 1)},
    "cifar_macer": {
        "objective.weight": (12, 4, 12),
        "objective.warmup.epochs": (0, 0, 200),
        "objective.noise_draws": (16, 16, 16),
        "objective.beta": (16, 16, 16),
        "objective.gamma": (8, 8, 8),
        "data.batch_size": (64, 64, 64),
        "optimizer.lr": (0.01, 0.01, 0.01),
        "optimizer.weight_decay": (5e-4, 5e-4, 5e-4),
        "trainer.max_epochs": (440, 440, 440),
    },
    "cifar_consistency": {
        "objective.weight": (20, 10, 10),
        "objective.entropy_weight": (0.5, 0.5, 0.5),
        "data.batch_size": (128, 128, 128),
    },
    "cifar_smoothmix": {
        "objective.step_size": (0.5, 1, 2),
        "objective.steps": (4, 4, 4),
        "objective.weight": (5, 5, 5),
        "objective.warmup.epochs": (10, 10, 10),
        "data.batch_size": (128, 128, 128),
    },
    "cifar_catrs": {
        "objective.weight": (0.5, 1, 2),
        "objective.epsilon": (1, 1, 1),
        "objective.noise_draws": (4, 4, 4),
        "data.batch_size": (64, 64, 64),
    },
    "cifar_smoothadv_ddn": {"attack.epsilon": (1, 1, 2), "objective.noise_draws": (4, 8, 2)},
    "imagenet_consistency": {
        "objective.weight": (10, 5, 5),
        "objective.entropy_weight": (0.5, 0.5, 0.1),
    },
}


def at(cfg, path):
    for key in path.split("."):
        cfg = cfg[key]
    return cfg


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_experiments_have_the_published_settings_at_every_sigma(experiment, tmp_path):
    for number, sigma in enumerate((0.25, 0.5, 1.0)):
        with composed(tmp_path, [f"experiment={experiment}", f"sigma={sigma}"]) as cfg:
            for path, values in PUBLISHED[experiment].items():
                assert at(cfg, path) == values[number], (path, sigma)


class Forgetful(LogitsObjective):
    """Returns its value as it is."""

    def of_logits(self, logits, batch):
        return logits.mean()


def test_an_objective_that_returns_a_tensor_is_answered_with_what_to_return(tmp_path):
    mine = ["objective=custom", "objective._target_=tests.commands.test_methods.Forgetful"]
    with (
        composed(tmp_path, [*QUICK, *mine, "+objective.noise_draws=1"]) as cfg,
        pytest.raises(SystemExit, match=r"Loss from Forgetful\.of_logits, got Tensor: return Loss"),
    ):
        commands.train(cfg)


def test_the_readmes_own_objective_trains(tmp_path, monkeypatch):
    """A file of at most 20 lines of code, outside of the package."""
    codes = [block.values[0] for block in blocks("python")]
    [code] = [code for code in codes if code.startswith("# my_objective.py")]
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    (tmp_path / "my_objective.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["experiment=digits_gaussian", *QUICK, "+objective.share=0.2"]
    overrides += ["objective=custom", "objective._target_=my_objective.HardDraws"]
    try:
        with composed(tmp_path / "run", overrides) as cfg:
            commands.train(cfg)
    finally:
        sys.modules.pop("my_objective", None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # Not as the option whose settings it started from.
    assert summary["objective"] == "my_objective.HardDraws"
    assert "train/worst" in (tmp_path / "run" / "metrics.csv").read_text()


def test_objective_attack_model_data_and_certifier_compose_in_any_combination(tmp_path):
    groups = ("objective", "attack", "model", "data", "certifier")
    source = random.Random(0)
    for _ in range(10):
        chosen = {group: source.choice(names(group)) for group in groups}
        root = ["data.root=somewhere"] if chosen["data"] == "image_folder" else []
        overrides = [*(f"{group}={option}" for group, option in chosen.items()), *root]
        with composed(tmp_path, overrides) as cfg:
            resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        for group, option in chosen.items():
            alone = OmegaConf.load(CONF / group / f"{option}.yaml")
            assert resolved[group]["_target_"] == alone._target_
