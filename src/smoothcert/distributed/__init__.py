"""Several processes for one job: what they tell each other, how they start, and how they end.

Nothing is imported here: signals are handled before torch is needed.
"""
