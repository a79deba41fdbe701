"""The page of many runs: what stands in it, that no text is taken for HTML, and equal bytes."""

import base64
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smoothcert import __version__
from smoothcert.records import COLUMNS
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.page import POINTS, thinned, write_page
from tests.helpers.report_pages import (
    EVIL,
    GROUP_BY,
    certificate,
    certificates,
    evil_page,
    foreign_log,
    page_of,
    run_folder,
    sweep,
    thumbnails,
)
from tests.helpers.support import ROOT


def data_of(page, name):
    """Return what a script element holds."""
    text = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert text is not None
    return json.loads(text[1])


def without_library(page):
    """Return a page without the scripts that are not data."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    sweep(root)
    return root


@pytest.fixture(scope="module")
def page(root, tmp_path_factory):
    return page_of(root, tmp_path_factory.mktemp("out") / "deeper" / "page.html", ["A note."])


def test_every_section_has_its_parts_and_an_entry_in_the_contents(page):
    for number in (1, 2):
        assert f'<section id="section-{number}"' in page
        for part in ("curves", "tables", "settings", "certificates"):
            assert f'id="section-{number}-{part}"' in page
            assert f'href="#section-{number}-{part}"' in page
    assert '<section id="section-3"' not in page
    assert page.count('<main id="main"') == page.count("<nav ") == page.count("<h1>") == 1


def test_the_head_says_what_is_shown(page):
    assert "10 runs of 3 methods in 2 parts; 367 certificates." in page
    assert "<li>A note.</li>" in page
    assert f"smoothcert {__version__}" in page


def test_tables_hold_what_the_grids_hold(page):
    captions = re.findall(r'<caption id="section-1-\w+">(.*?)</caption>', page)
    assert captions == ["Upper envelope over σ", "Methods by σ", "Paired differences", "Runs"]
    assert '<button type="button">ACR</button></th>' in page
    assert "<strong>" in page
    assert re.search(r'<td class="number" data-value="0\.\d+">\d', page)


def test_the_baseline_is_the_requested_one(root, page, tmp_path):
    assert "ADRE − Gaussian" in page
    assert "Gaussian − ADRE" in page_of(root, tmp_path / "page.html", baseline="ADRE")


def test_notes_of_a_section_stand_once_at_its_head(page):
    assert without_library(page).count("logged by other code on images") == 1


def test_two_processes_and_two_folders_give_the_same_bytes(root, page, tmp_path):
    moved = tmp_path / "moved"
    root.rename(moved)
    code = "import sys; from pathlib import Path; from tests.helpers.report_pages import page_of\n"
    code += "page_of(Path(sys.argv[1]), Path(sys.argv[2]), ['A note.'])"
    paths = [str(ROOT), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "7"}
    try:
        other = [sys.executable, "-c", code, str(moved), str(tmp_path / "other.html")]
        subprocess.run(other, check=True, env=environment)
    finally:
        moved.rename(root)
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == page


def test_no_place_on_this_machine_is_named(page, root):
    assert str(root) not in page
    assert str(Path.home()) not in without_library(page)
    assert str(ROOT) not in page


def test_places_in_settings_are_shortened(tmp_path):
    places = {"root": "/home/me/data/images", "drive": "C:\\data\\cifar", "rate": "1/2"}
    run_folder(tmp_path / "a", certificates(), **places)
    page = page_of(tmp_path, tmp_path / "page.html")
    rows = {row["name"]: row["texts"] for row in data_of(page, "settings-0")["parts"][1]["rows"]}
    assert (rows["root"], rows["drive"], rows["rate"]) == (["…/images"], ["…/cifar"], ["1/2"])
    assert "/home/me" not in page


def test_nothing_is_loaded_from_a_network(page):
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|iframe|object|embed|base|img)\b", without_library(page))
    addresses = re.findall(r'\b(?:src|href|action|srcset)\s*=\s*"([^"]*)"', without_library(page))
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert "@import" not in page
    assert not re.search(r"https?://", without_library(page))


def test_texts_of_files_are_never_html(tmp_path):
    (tmp_path / "runs").mkdir()
    page = evil_page(tmp_path / "runs", tmp_path / "page.html")
    plain = without_library(page)
    assert "<script>alert" not in page
    assert "<img" not in plain
    assert "<b>" not in plain
    assert "\u2028" not in re.sub(r"<(?!script)[^>]*>[^<]*", "", plain)
    assert html.escape(EVIL).split("`")[0] in plain
    assert page.count("</script>") == page.count("<script")
    assert data_of(page, "gallery-0")["classes"][0] == ["0", EVIL, EVIL]


def test_the_library_does_not_end_its_own_element(page):
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 3
    assert "window.vegaEmbed" in scripts[1]
    assert not any("<!--" in script for script in scripts)


@pytest.mark.parametrize("steps", [1, 2, 199, 200, 201, 5000])
@pytest.mark.parametrize("kept", [0, 17])
def test_thinning_keeps_the_ends_and_the_requested_radii(steps, kept):
    rng = np.random.default_rng(steps)
    shares = np.sort(rng.choice(np.linspace(0, 1, 3000), steps))[::-1]
    asked = rng.choice(steps, min(kept, steps), replace=False)
    chosen = thinned(shares, asked)
    assert len(chosen) <= POINTS
    assert {0, steps - 1, *asked.tolist()} <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    after = chosen[np.searchsorted(chosen, np.arange(steps))]
    assert (shares[after] <= shares).all()
    # Only a fall that is in the curve itself may be larger than the distance of two levels.
    assert (shares - shares[after]).max() <= 1 / (POINTS - 2 - kept) + 1e-9


def at(curve, radius):
    """Return the share that a curve shows at a radius."""
    place = np.searchsorted(curve["radius"], radius)
    return curve["share"][place] if place < len(curve["share"]) else 0.0


@pytest.mark.parametrize("images", [40, 3000])
def test_curves_never_show_more_than_is_certified(tmp_path, images):
    rows = [certificates(images, seed) for seed in (0, 1)]
    # CertificateFile waits for the disk at every row.
    for seed in (0, 1):
        folder = run_folder(tmp_path / f"{seed}", rows[seed][:1], seed=seed)
        fast(folder, rows[seed])
    page = page_of(tmp_path, tmp_path / "page.html")
    [section] = sections_of(read_runs(sorted(tmp_path.iterdir())).runs, GROUP_BY)
    lines = data_of(page, "curves-0")["lines"]
    assert ["run" in line for line in lines] == [False, False, True, True]
    radii = np.linspace(0, 1, 301)
    for name, place in (("certified", 0), ("again", 1)):
        true = np.array([run.bounds[place].accuracy(radii.tolist()) for run in section.runs])
        for line, expected in zip(lines, [true.mean(0), true.mean(0), *true], strict=True):
            drawn = np.array([at(line[name], radius) for radius in radii])
            assert len(line[name]["radius"]) <= POINTS
            assert (drawn <= expected + 1e-12).all()
            assert (drawn >= expected - 0.006).all()
            # The tables and the curves agree where the tables look.
            assert drawn[::75] == pytest.approx(expected[::75], abs=1.1e-6)


def fast(folder, rows):
    """Replace the certificates of a run folder."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        cells = [getattr(row, name) for name in COLUMNS]
        lines.append("\t".join(f"{c:.6f}" if isinstance(c, float) else str(c) for c in cells))
    (folder / "certificates.tsv").write_text("\n".join([*lines, ""]))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "images": len(rows)}))


def test_the_envelope_is_the_best_mean_over_seeds(tmp_path):
    for sigma, radius in ((0.25, 0.3), (0.5, 0.6)):
        for seed in (0, 1):
            right = 8 if sigma == 0.25 else 6 - 2 * seed
            rows = [certificate(i, radius, 1 if i < right else 2) for i in range(10)]
            run_folder(tmp_path / f"{sigma}-{seed}", rows, sigma, seed=seed)
    lines = data_of(page_of(tmp_path, tmp_path / "page.html"), "curves-0")["lines"]
    envelope = lines[0]["certified"]
    assert [at(envelope, r) for r in (0.0, 0.3, 0.300001, 0.6, 0.61)] == [0.8, 0.8, 0.5, 0.5, 0]


def test_certificates_say_what_became_of_each_image(tmp_path):
    rows = [
        certificate(3, 0.123456, 1),
        certificate(5, 0.2, 2),
        certificate(8, 0.0, -1),
        certificate(9, 0.0, -1, stop="wrong"),
    ]
    run_folder(tmp_path / "a", rows)
    columns = data_of(page_of(tmp_path, tmp_path / "page.html"), "certificates-0")
    assert columns["index"] == [3, 5, 8, 9]
    assert columns["outcome"] == [0, 1, 2, 3]
    assert columns["radius"] == [0.123456, 0.2, 0.0, 0.0]
    assert columns["label"] == 1
    assert columns["samples"] == [1000, 1000, 1000, 0]


def test_what_a_published_log_does_not_record_is_null(tmp_path):
    foreign_log(tmp_path / "published", certificates())
    page = page_of(tmp_path, tmp_path / "page.html")
    columns = data_of(page, "certificates-0")
    assert columns["lower"] is columns["upper"] is columns["samples"] is None
    assert data_of(page, "curves-0")["bounds"] == ["as logged"]
    assert all(not part["rows"] for part in data_of(page, "settings-0")["parts"])


def test_a_log_in_two_sections_is_embedded_once(tmp_path):
    rows = certificates()
    run_folder(tmp_path / "a", rows)
    foreign_log(tmp_path / "published", rows)
    folder = run_folder(tmp_path / "b", rows)
    for name in ("summary.json", "certificates.settings.json"):
        (folder / name).write_text((folder / name).read_text().replace("0.001", "0.01"))
    page = page_of(tmp_path, tmp_path / "page.html")
    assert page.count('<section id="section-') == 2
    assert page.count('id="certificates-') == 3


def test_differences_of_settings_are_marked(page):
    parts = {part["name"]: part["rows"] for part in data_of(page, "settings-0")["parts"]}
    run = {row["name"]: row for row in parts["run"]}
    assert run["sigma"]["differs"]
    assert not run["git_commit"]["differs"]
    assert run["git_commit"]["texts"] == ["abc", None]
    training = {row["name"]: row for row in parts["training"]}
    assert training["objective.name"]["texts"] == ["adre", "gaussian", None]
    assert training["objective.name"]["of"] == [0] * 4 + [1] * 4 + [2]
    assert {row["name"] for row in parts["versions"]} == {"python", "torch"}


def test_only_the_exception_of_a_majority_is_marked(tmp_path):
    for number, rate in enumerate((0.1, 0.1, 0.2)):
        run_folder(tmp_path / str(number), certificates(), seed=number, rate=rate)
    page = page_of(tmp_path, tmp_path / "page.html")
    rows = {row["name"]: row for row in data_of(page, "settings-0")["parts"][1]["rows"]}
    assert (rows["rate"]["usual"], rows["rate"]["of"]) == (0, [0, 0, 1])
    seeds = {row["name"]: row for row in data_of(page, "settings-0")["parts"][0]["rows"]}
    assert seeds["training_seed"]["usual"] is None


def test_long_settings_are_cut_after_they_are_compared(tmp_path):
    for number in (0, 1):
        text = "x" * 500 + str(number)
        run_folder(tmp_path / str(number), certificates(), seed=number, long=text)
    page = page_of(tmp_path, tmp_path / "page.html")
    [row] = [r for r in data_of(page, "settings-0")["parts"][1]["rows"] if r["name"] == "long"]
    assert row["differs"]
    assert row["texts"] == ["x" * 300 + "…"] * 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_thumbnails_are_embedded_once_as_they_are(tmp_path, mode):
    for number in (0, 1):
        folder = run_folder(tmp_path / str(number), certificates(), seed=number)
        thumbnails(folder, [7, 3, 30], columns=2, mode=mode)
    page = page_of(tmp_path, tmp_path / "page.html")
    [name] = {run["thumbnails"] for run in data_of(page, "gallery-0")["runs"]}
    assert page.count('id="thumbnails-') == 1
    found = data_of(page, f"thumbnails-{name}")
    assert (found["tile"], found["columns"], found["indices"]) == ([6, 8], 2, [7, 3, 30])
    content = base64.b64decode(found["address"].removeprefix("data:image/png;base64,"))
    assert content == (tmp_path / "0" / "thumbnails.png").read_bytes()


DAMAGE = {
    "no indices": {"indices": None},
    "no tile": {"tile": None},
    "other words": {"indices": "1,two"},
    "other tile": {"tile": "6"},
    "empty tile": {"tile": "0x0"},
    "no columns": {"columns": "-5"},
    "too wide": {"columns": "6"},
    "too many": {"indices": ",".join(map(str, range(11)))},
}


@pytest.mark.parametrize("texts", DAMAGE.values(), ids=DAMAGE)
def test_thumbnails_with_a_wrong_description_are_left_out(tmp_path, texts):
    thumbnails(run_folder(tmp_path / "a", certificates()), range(10), texts=texts)
    assert 'id="thumbnails-' not in page_of(tmp_path, tmp_path / "page.html")


@pytest.mark.parametrize("kept", [0, 4, 20, 60, 200])
def test_thumbnails_that_are_cut_off_are_left_out(tmp_path, kept):
    folder = run_folder(tmp_path / "a", certificates())
    thumbnails(folder, range(10))
    file = folder / "thumbnails.png"
    file.write_bytes(file.read_bytes()[:kept])
    assert 'id="thumbnails-' not in page_of(tmp_path, tmp_path / "page.html")


def test_other_files_in_the_place_of_thumbnails_are_left_out(tmp_path):
    folder = run_folder(tmp_path / "a", certificates())
    Image.new("L", (20, 20)).save(folder / "thumbnails.png", format="JPEG")
    (run_folder(tmp_path / "b", certificates(), seed=1) / "thumbnails.png").mkdir()
    assert 'id="thumbnails-' not in page_of(tmp_path, tmp_path / "page.html")


def test_runs_without_any_certified_image_are_shown(tmp_path):
    run_folder(tmp_path / "a", [certificate(i, 0.0, -1) for i in range(5)])
    data = data_of(page_of(tmp_path, tmp_path / "page.html"), "curves-0")
    assert data["limit"] == 0.25
    assert data["lines"][0]["certified"] == {"radius": [0.0], "share": [0.0]}


def test_a_page_without_runs_is_a_page(tmp_path):
    write_page([], ["Nothing was found."], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "0 runs of 0 methods in 0 parts" in text
    assert "<li>Nothing was found.</li>" in text
