"""Runs and published logs by hand, in memory and on the disk."""

import json
from dataclasses import replace
from math import floor
from pathlib import Path
from statistics import NormalDist

from smoothcert.records import FIELD_COLUMNS, CertificateFile, CertificateRow
from smoothcert.report.load import Run

WRONG, ABSTAINED = "wrong", "abstained"
SETTINGS = {
    "certifier": "CohenCertifier",
    "n0": 100,
    "n": 10_000,
    "alpha": 0.001,
    "target": "selection",
    "stop_when_wrong": False,
    "seed": 0,
    "split": "test",
    "noise": "gaussian",
    "precision": "float32",
    "examples": "5b125ba3fe2d071a",
    "data": "digits",
}
OF_CERTIFIERS = ("radii", "alpha_split")
OF_SUMMARY = ("n0", "n", "alpha", "split", "noise", "precision", "target", "data", "sigma")


def rows_of(outcomes, n=10_000):
    """Return a row an image: right with the radius given, wrong with radius .3, or abstained."""
    rows = []
    for place, outcome in enumerate(outcomes):
        label = place % 3
        predict = {WRONG: (label + 1) % 3, ABSTAINED: -1}.get(outcome, label)
        radius = {WRONG: 0.3, ABSTAINED: 0.0}.get(outcome, outcome)
        first = (label, predict, radius, int(predict == label), 0.5)
        idx = 7 * place + 2
        rows.append(CertificateRow(idx, *first, 0.9, 0.1, n * 9 // 10, n // 50, n, "fixed"))
    return rows


def with_bounds(row, sigma):
    """Return a row with the bounds that its radius has under Cohen's certifier."""
    p_a = floor(1e6 * NormalDist(0, sigma).cdf(row.radius) - (row.predict < 0)) / 1e6
    n_a = row.n_samples if p_a > row.n_a / row.n_samples else row.n_a
    bounds = {"p_a_lower": p_a, "p_b_upper": round(1 - p_a, 6)}
    return replace(row, n_a=n_a, n_b=min(row.n_b, row.n_samples - n_a), **bounds)


def run_by_hand(
    outcomes,
    name="run",
    *,
    objective="gaussian",
    attack="none",
    seed=0,
    sigma=0.5,
    training=None,
    summary=None,
    **settings,
):
    """Return a run of ours; further settings replace those that the certificates depend on."""
    weights = f"{name}, {objective}, {attack}, {seed}"
    used = {**SETTINGS, "sigma": sigma, "weights": weights, **settings}
    by_hand = not isinstance(outcomes[0], CertificateRow)
    rows = rows_of(outcomes, used["n"]) if by_hand else outcomes
    if by_hand and used["certifier"] == "CohenCertifier":
        rows = [with_bounds(row, sigma) for row in rows]
    facts = {
        **{key: used[key] for key in OF_SUMMARY if key in used},
        "certifier": used["certifier"].removesuffix("Certifier").lower(),
        "objective": objective,
        "attack": attack,
        "images": len(rows),
        "seed": 0,
        "training_seed": seed,
        "mean_samples_per_image": 10_100.0,
        **({"training": training} if training is not None else {}),
        **(summary or {}),
    }
    return Run(name, Path(name, "certificates.tsv"), rows, used, facts)


def log_by_hand(outcomes, name="cohen/sigma_0.5"):
    """Return a published log."""
    rows = rows_of(outcomes) if not isinstance(outcomes[0], CertificateRow) else outcomes
    return Run(name, Path("/published", name), rows)


def write_run(folder, run):
    """Write a run as a finished certification leaves it, and return its folder."""
    with CertificateFile(folder / "certificates.tsv", run.settings) as file:
        for row in run.rows:
            file.append(row)
    (folder / "summary.json").write_text(json.dumps(run.summary))
    return folder


def write_log(path, rows, time="0:00:01.500000"):
    """Write a log as published code prints it, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(FIELD_COLUMNS)]
    for row in rows:
        cells = (row.idx, row.label, row.predict, f"{row.radius:.3}", row.correct, time)
        lines.append("\t".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


def experiment_by_hand(name="cifar_reg", seed=0, sigma=0.25, outcomes=(0.3, 0.4, WRONG), **changes):
    """Return a certification of an experiment under both bounds, as a table of them needs it.

    Further values replace those of the summary, or of the certifier's settings where these have
    them.
    """
    settings = {key: changes.pop(key) for key in [*changes] if key in (*SETTINGS, *OF_CERTIFIERS)}
    facts = {
        "name": name,
        "model": "small_cnn",
        "training_seed": seed,
        "epochs": 20,
        "seconds_training": 90.0,
        "training_images": 45_000,
        "certified_accuracy": {"0": 0.5, "0.25": 0.5, "0.5": 0.25},
        **changes,
    }
    used = {"certifier": "TightCertifier", "seed": seed, **settings}
    place = f"{name}_{sigma}_{seed}"
    return run_by_hand(list(outcomes), place, sigma=sigma, summary=facts, **used)
