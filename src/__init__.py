"""The command-line entry points: `python -m src.train` and its neighbours."""
