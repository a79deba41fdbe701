"""The notebooks run, say what is true, and are kept without outputs."""

import json

import pytest

from tests.helpers.support import ROOT

nbformat = pytest.importorskip("nbformat", reason="the notebooks' tools are not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebooks' tools are not installed")
pytest.importorskip("ipykernel", reason="the notebooks' tools are not installed")

FOLDER = ROOT / "notebooks"
NAMES = (
    "01_quickstart",
    "02_how_the_certificate_works",
    "03_certify_your_own_model",
    "04_reading_a_sweep",
)
SECONDS = 600
"""For one cell, on a machine that is busy with other things as well."""
# What a notebook has found out, as its own variables say it.
RESULTS = {
    "01_quickstart": """{
        "images": len(rows), "accuracy": accuracy.tolist(), "at_half": at_half, "acr": acr,
        "n": settings["n"], "left": outputs.exists(),
    }""",
    "02_how_the_certificate_works": """{
        "certified": certificate.radius, "theorem": float(theorem), "true": float(true_radius),
        "failed": float(failed.mean()), "worst": float(worst), "alpha": alpha,
        "reuse": [float(value) for value in reuse.values()],
        "looks": {name: float(value) for name, value in false_claims.items()},
    }""",
    "03_certify_your_own_model": """{
        "acr": [each["acr"] for each in figures.values()],
        "abstained": int(figures["trained under noise"]["abstained"].sum()),
        "radius": figures["trained under noise"]["radius"].tolist(),
        "moved": [float(value) for value in lengths], "changed": int(changed),
    }""",
    "04_reading_a_sweep": """{
        "runs": len(found.runs), "notes": list(found.notes), "methods": list(section.methods),
        "files": sorted(path.name for path in drawn), "left": outputs.exists(),
    }""",
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    numbers = [f"cell-{number:02d}" for number in range(1, len(notebook.cells) + 1)]
    assert [cell.id for cell in notebook.cells] == numbers
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.fixture
def results(request, tmp_path, monkeypatch):
    """Run a notebook in an empty folder; return what its variables say in the end."""
    name = request.param
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"):
        folder = tmp_path / variable.lower()
        folder.mkdir()
        # Nobody's own settings, kernels and lists of fonts.
        monkeypatch.setenv(variable, str(folder))
    for variable in ("JUPYTER_PATH", "PYTHONWARNINGS", "MPLBACKEND"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work = tmp_path / "work"
    work.mkdir()
    notebook = read(name)
    asked = f"import json\nprint(json.dumps({RESULTS[name]}))"
    notebook.cells.append(nbformat.v4.new_code_cell(asked, id="results"))
    nbclient.NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    ).execute()
    *cells, last = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert list(work.iterdir()) == []
    return json.loads("".join(output.text for output in last.outputs))


@pytest.mark.slow
class TestExecuted:
    @pytest.mark.parametrize("results", NAMES[:1], indirect=True)
    def test_quickstart(self, results):
        accuracy = results["accuracy"]
        assert (results["images"], results["n"], results["left"]) == (100, 2000, False)
        assert accuracy == sorted(accuracy, reverse=True)
        assert accuracy[0] > 0.75
        assert accuracy[250] == results["at_half"] > 0.2
        assert results["acr"] > 0.3

    @pytest.mark.parametrize("results", NAMES[1:2], indirect=True)
    def test_how_the_certificate_works(self, results):
        assert 0 < results["certified"] < results["theorem"] < results["true"]
        assert results["failed"] <= results["alpha"] == 0.05
        assert 0.9 * results["alpha"] < results["worst"] <= results["alpha"]
        honest, counted_again, same = results["reuse"]
        assert honest <= results["alpha"] < counted_again < same
        assert same == pytest.approx(2 * honest)
        assert results["looks"]["α shared by the looks"] <= results["alpha"]
        assert results["looks"]["α at every look"] > 0.15

    @pytest.mark.parametrize("results", NAMES[2:3], indirect=True)
    def test_certify_your_own_model(self, results):
        plain, robust = results["acr"]
        assert robust > plain + 0.05
        assert results["abstained"] >= 1
        # What 2,000 unanimous votes prove.
        assert 0.5 < max(results["radius"]) < 1.3510
        assert len(results["moved"]) == 20
        assert max(results["moved"]) > 0.3
        assert results["changed"] == 0

    @pytest.mark.parametrize("results", NAMES[3:], indirect=True)
    def test_reading_a_sweep(self, results):
        assert (results["runs"], results["notes"], results["left"]) == (8, [], False)
        assert results["methods"] == ["ADRE", "Gaussian"]
        assert {"certified_accuracy.png", "radii.png"} <= set(results["files"])
