"""The table of training methods, made from the configurations: `task=methods` of the benchmark."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from smoothcert.benchmarks import count_passes
from smoothcert.commands.benchmarking import Measurement
from smoothcert.errors import InvalidArgumentError
from smoothcert.report.markdown import markdown_table

SIGMAS = (0.25, 0.5, 1.0)
"""The σ for which papers publish settings."""
FAMILY, FAST = "cifar_", "cifar_fast_"
METHOD = re.compile(r"^# (?P<method>[^(\n]+) \((?P<source>[^)\n]+\d{4})\)", re.MULTILINE)
"""How an experiment's comment names its method and its source."""
NAMES = (
    *("method", "source", "`experiment=`", "override", "settings at σ = .25 / .5 / 1"),
    "extra forward / backward",
)


def methods(cfg: DictConfig) -> Measurement:  # noqa: ARG001
    """Make the table of training methods.

    Args:
        cfg: a configuration of `conf/benchmark.yaml` with `task=methods`.
    """
    table = methods_table()
    return Measurement(table, markdown(table))


def methods_table() -> list[dict[str, Any]]:
    """Return one entry per method that has an experiment on CIFAR-10.

    Passes are those per image and training step, after all warm-ups, beyond the one of Gaussian
    training with one draw.
    """
    names = GlobalHydra.instance().config_loader().get_group_options("experiment")
    published = [name for name in names if name.startswith(FAMILY) and not name.startswith(FAST)]
    return [_entry(name) for name in published]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as Markdown.

    Args:
        table: what `methods_table` returns.
    """
    rows = []
    for row in table:
        passes = f"+{_joined(row['extra_forward'])} / +{_joined(row['extra_backward'])}"
        cells = (row["method"], row["source"], f"`{row['experiment']}`", f"`{row['override']}`")
        rows.append([*cells, row["settings"], passes])
    return markdown_table(NAMES, rows)


def _entry(experiment: str) -> dict[str, Any]:
    configurations = [_composed(experiment, sigma) for sigma in SIGMAS]
    choices = configurations[0]["choices"]
    override = f"objective={choices['objective']}"
    if choices["attack"] != "none":
        override += f" attack={choices['attack']}"
    passes = [
        count_passes(instantiate(c["objective"]), instantiate(c["attack"]), sigma)
        for c, sigma in zip(configurations, SIGMAS, strict=True)
    ]
    return {
        **_named(experiment),
        "experiment": experiment,
        "override": override,
        "settings": "; ".join(
            text for part in ("objective", "attack") if (text := _settings(part, configurations))
        ),
        "extra_forward": [each.forward - 1 for each in passes],
        "extra_backward": [each.backward - 1 for each in passes],
    }


def _composed(experiment: str, sigma: float) -> dict[str, Any]:
    overrides = [f"experiment={experiment}", f"sigma={sigma}"]
    everything = compose("train", overrides, return_hydra_config=True)
    return {
        "choices": everything.hydra.runtime.choices,
        "objective": OmegaConf.to_container(everything.objective, resolve=True),
        "attack": OmegaConf.to_container(everything.attack, resolve=True),
    }


def _named(experiment: str) -> dict[str, str]:
    for source in GlobalHydra.instance().config_loader().get_sources():
        path = Path(source.path) / "experiment" / f"{experiment}.yaml"
        if path.is_file() and (found := METHOD.search(path.read_text(encoding="utf-8"))):
            return found.groupdict()
    raise InvalidArgumentError(
        f"Expected experiment/{experiment}.yaml to name its method in a comment, as "
        "'# MACER (Zhai et al., 2020) …'"
    )


def _settings(part: str, configurations: Sequence[Mapping[str, Any]]) -> str:
    values = [configuration[part] for configuration in configurations]
    texts = [
        f"{name} {_joined([value[name] for value in values])}"
        for name in values[0]
        if isinstance(values[0][name], int | float) and not isinstance(values[0][name], bool)
    ]
    warmups = [value["warmup"] for value in values if "warmup" in value]
    if any(warmup.get("epochs") for warmup in warmups):
        kind = warmups[0]["_target_"].rpartition(".")[2].lower()
        texts.append(f"{kind} warm-up {_joined([w['epochs'] for w in warmups])} epochs")
    return f"{part}: {', '.join(texts)}" if texts else ""


def _joined(values: Iterable[Any]) -> str:
    """Return the value that all σ share, or one value per σ."""
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else "/".join(texts)
