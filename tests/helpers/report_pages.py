"""Report pages over small folders."""

import json

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from smoothcert.records import COLUMNS, CertificateFile, CertificateRow
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.page import write_page
from smoothcert.report.tables import tables_of

GROUP_BY = ("objective", "attack")

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028`&amp;"

SETTINGS = {
    "certifier": "TightCertifier",
    "n0": 100,
    "n": 1000,
    "alpha": 0.001,
    "seed": 0,
    "split": "test",
    "examples": "all",
}


def certificate(idx, radius, predict, label=1, stop="fixed", n_a=900):
    """Return a row; `predict` equal to `label` is right."""
    correct = int(predict == label)
    bounds = (0.55, 0.45, n_a, 0, 1000) if stop == "fixed" else (0.0, 1.0, 0, 0, 0)
    return CertificateRow(idx, label, predict, radius, correct, 0.1, *bounds, stop)


def certificates(images=40, seed=0, stop_when_wrong=False):
    """Return rows of every outcome."""
    rng = np.random.default_rng(seed)
    rows = []
    for idx in range(images):
        predict = int(rng.choice([1, 1, 1, 1, 2, -1]))
        gone = stop_when_wrong and predict == 2
        radius = 0.0 if predict < 0 or gone else round(float(rng.uniform(0.05, 0.6)), 6)
        votes = int(rng.integers(600, 980))
        rows.append(
            certificate(idx, radius, -1 if gone else predict, stop="wrong" if gone else "fixed")
            if gone
            else certificate(idx, radius, predict, n_a=votes)
        )
    return rows


def run_folder(folder, rows, sigma=0.25, objective="adre", seed=0, **training):
    """Write a run folder as a certification leaves it, and return it."""
    settings = {**SETTINGS, "sigma": sigma, "weights": str(folder.name)}
    with CertificateFile(folder / "certificates.tsv", settings) as file:
        for row in rows:
            file.append(row)
    summary = {
        **SETTINGS,
        "sigma": sigma,
        "objective": objective,
        "attack": "none",
        "training_seed": seed,
        "data": "digits",
        "precision": "float32",
        "noise": "gaussian",
        "certifier": "tight",
        "images": len(rows),
        "target": "selection",
        "mean_samples_per_image": 1100.0,
        "certifier_settings": settings,
        "seconds_training": 12.5 + seed,
        "git_commit": "abc",
        "versions": {"python": "3.11.7", "torch": "2.6"},
        "training": {"objective": {"name": objective, "weight": 0.5}, **training},
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def foreign_log(path, rows):
    """Write a log of published code, and return it."""
    lines = ["\t".join(COLUMNS[:6])]
    for row in rows:
        cells = (row.idx, row.label, row.predict, row.radius, row.correct, "0:00:01.5")
        lines.append("\t".join(map(str, cells)))
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def thumbnails(folder, indices, columns=5, mode="L", texts=None):
    """Write thumbnails as a certification does, with other texts beside them if asked for."""
    width, height = 6, 8
    size = (columns * width, -(-len(indices) // columns) * height)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0]), dtype=np.uint8)
    text = PngInfo()
    said = {"indices": ",".join(map(str, indices)), "columns": str(columns)}
    for name, value in {**said, "tile": f"{width}x{height}", **(texts or {})}.items():
        if value is not None:
            text.add_text(name, value)
    Image.fromarray(noise).convert(mode).save(folder / "thumbnails.png", pnginfo=text)


def sweep(root, images=40, classes=("zero", "one", "two")):
    """Write two methods at two σ with two seeds each, a published log, and other samples."""
    for method in ("gaussian", "adre"):
        for sigma in (0.25, 0.5):
            for seed in (0, 1):
                rows = certificates(images, seed=seed, stop_when_wrong=method == "adre")
                folder = root / f"{method}-{sigma}-{seed}"
                run_folder(folder, rows, sigma, method, seed, class_names=list(classes))
                thumbnails(folder, range(images - 5))
    foreign_log(root / "published_sigma_0.25", certificates(images, seed=3))
    run_folder(root / "few", certificates(7, seed=9), class_names=list(classes))


def page_of(root, path, notes=(), baseline=None):
    """Write the page of everything in a folder, and return it."""
    found = read_runs(sorted(root.iterdir()))
    sections = sections_of(found.runs, GROUP_BY)
    bases = [baseline if baseline in section.methods else None for section in sections]
    tables = [tables_of(each, baseline=base) for each, base in zip(sections, bases, strict=True)]
    write_page(list(zip(sections, tables, strict=True)), [*notes, *found.notes], path)
    return path.read_text(encoding="utf-8")


def evil_page(root, path):
    """Write a page whose every text tries to be HTML, and return it."""
    folder = root / "<b>run&amp;"
    rows = certificates()
    run_folder(folder, rows, objective=EVIL, class_names=["0", EVIL, EVIL], **{EVIL: [EVIL]})
    other = {"objective": EVIL, "class_names": ["<i>"], EVIL: [EVIL]}
    run_folder(root / "other", rows, sigma=0.5, **other)
    return page_of(root, path, [EVIL])
