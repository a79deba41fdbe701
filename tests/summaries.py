"""Summaries of certifications by hand, as far as tables read them."""

import json


def summary(name="cifar_reg", seed=0, sigma=0.25, acr=0.3, clean=0.75, folder="runs/0", **changes):
    """Return the summary of a certification under both bounds."""
    shares = {"0": clean, "0.25": clean / 2, "0.5": clean / 4}
    lower = {radius: share / 2 for radius, share in shares.items()}
    return {
        "name": name,
        "training_seed": seed,
        "sigma": sigma,
        "data": "digits",
        "model": "small_cnn",
        "split": "test",
        "images": 500,
        "n0": 100,
        "n": 10_000,
        "alpha": 0.001,
        "precision": "float32",
        "certifier": "tight",
        "certifier_settings": {"examples": "every fifth"},
        "noise": "gaussian",
        "epochs": 20,
        "seconds_training": 90.0,
        "training_images": 45_000,
        "clean_smoothed_accuracy": clean,
        "bounds": {
            "tight": {"acr": acr, "certified_accuracy": shares},
            "cohen": {"acr": acr - 0.1, "certified_accuracy": lower},
        },
        "folder": folder,
        **changes,
    }


def written(folder, content):
    """Make a folder with a summary, given as values or as text, and return it."""
    folder.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "summary.json").write_text(text)
    return folder
