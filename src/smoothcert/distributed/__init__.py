"""Several processes for one job: how they start, communicate and end.

Nothing is imported here: signals are handled before torch is imported.
"""
