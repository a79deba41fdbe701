"""The command-line entry points: `python -m src.train` and its neighbours."""

import signal

# Until a command has begun there is nothing to save: Ctrl-C ends it at once and without a trace.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
