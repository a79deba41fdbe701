"""What a command refuses before anything is written."""

import os
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from smoothcert.commands.commandline import (
    check_given,
    choices_of,
    overrides_of,
    parsed,
    quoted,
    read_yaml,
    typed,
)
from smoothcert.commands.error_handling import plain
from smoothcert.commands.launching import require_common_folder
from smoothcert.commands.security import refuse_secrets, trusted
from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import RunFolder

LAUNCHERS = ("hydra/launcher=slurm", "hydra/launcher=submitit")
"""Launchers that an extra of this package installs."""
HYDRA_BYTES = 2**16
"""Upper bound on what Hydra writes before a command begins."""
PLAIN_OVERRIDE = re.compile(r"(?!hydra\b)(?!.*(\$\{|_target_|\.\./))[\w.]+=.*")
"""Overrides that set a value or choose an option of `conf/`."""
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
"""Keys that are left out of the name of a job's folder."""
OPTIONAL = ("logger", "callbacks")
"""Groups that a command can do without."""


def check_command_line(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would store or print, or what it cannot compose and answers with a trace.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: if it contains a secret, null as the option of a group, a launcher that is not
            installed, or a value that Hydra cannot parse.

    Example:
        >>> check_command_line(["src/train.py", "-m", "sigma=0.25,0.5", "logger=csv"])
    """
    refuse_secrets(arguments)
    groups = Path(arguments[0]).resolve().parents[1] / "conf"
    for argument in arguments[1:]:
        key, _, value = argument.partition("=")
        if value == "null" and key.isidentifier() and (groups / key).is_dir():
            options = ", ".join(sorted(path.stem for path in (groups / key).glob("*.yaml")))
            without = f". To do without: '~{key}'" if key in OPTIONAL else ""
            raise SystemExit(f"Expected {key}= one of {options}, got null{without}")
        if argument.startswith(LAUNCHERS) and find_spec("submitit") is None:
            raise SystemExit(f"Expected submitit for {argument}: pip install 'smoothcert[slurm]'")
        if value and parsed(argument) is None and parsed(quoted(key, value)) is not None:
            raise SystemExit(
                f"Expected quotes around the value of {argument}, which Hydra cannot parse: "
                f"{typed(key, value)}"
            )


class Guard(Callback):
    """Refuses a command before Hydra writes anything, with a message of one line.

    Args:
        command: `train`, `certify`, `merge`, `report` or `benchmark`.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings of a run, and its folder.

        Raises:
            SystemExit: if a setting is missing, is out of range or names no run, or the folder
                cannot be made or written, contains another run, or contains a link that leads out
                of it.
        """
        # Hydra does so next; the folder's name may depend on its values.
        HydraConfig.instance().set_config(config)
        with _plain_exit():
            self._require_subject(config)
            if self.command == "certify" and config.get("ckpt") is None:
                _read_run(config.run)
            if self.command == "train":
                overrides = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
                require_common_folder([self.command, *overrides])
                if config.run is not None:
                    _resume(config, overrides)
                else:
                    _require_same_run(config)
            check_given(config)
            # A merge determines its folder later.
            if self.command != "merge":
                folder = Path(config.hydra.run.dir)
                _require_writable(folder, "hydra.run.dir")
                # A report's folder is no run folder.
                if config.hydra.output_subdir is not None:
                    RunFolder(folder).check_links()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of a sweep, and leave overrides that all jobs share out of their names.

        Raises:
            SystemExit: if a setting is missing, or the folder cannot be made or written.
        """
        with _plain_exit():
            self._require_subject(config)
            runs = [each for each in config.hydra.overrides.task if each.startswith("run=")]
            if self.command == "train" and runs:
                raise InvalidArgumentError(
                    f"{runs[0]} resumes one run exactly as it was started; got it in a multirun"
                )
            _require_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            overrides = _overrides(config)
            different = {each.key_or_group for each in overrides if each.is_sweep_override()}
            shared = sorted({each.key_or_group for each in overrides} - different)
            with read_write(config):
                # Every job composes its configuration anew, from these overrides too.
                config.hydra.overrides.hydra.append(f"{EXCLUDED}={shared}")

    def _require_subject(self, config: DictConfig) -> None:
        """Refuse a command line without the run, the file or the folders that the command needs."""
        keys = {each.key_or_group for each in _overrides(config)}
        if self.command == "certify" and not keys & {"run", "ckpt"}:
            raise InvalidArgumentError(
                "Expected run=<run folder>, a folder that `python -m src.train` made, or "
                "ckpt=<file> model=<its network> sigma=<σ>"
            )
        if self.command == "certify" and keys >= {"run", "ckpt"}:
            raise InvalidArgumentError(
                "Expected run=… or ckpt=…, got both: a run has its own weights"
            )
        if self.command in ("report", "merge") and "runs" not in keys:
            raise InvalidArgumentError(
                "Expected runs='<folders>', for example runs='outputs/sweeps/**'"
            )


@contextmanager
def _plain_exit() -> Iterator[None]:
    """End the command at any error; at one in a callback, Hydra would only warn and continue."""
    try:
        yield
    except Exception as error:
        cause = plain(error)
        if cause is None:
            traceback.print_exc()
        raise SystemExit(1 if cause is None else str(cause)) from error


def _overrides(config: DictConfig) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))


def _read_run(name: Any) -> tuple[RunFolder, Any]:
    """Return a run folder and its saved configuration."""
    if not isinstance(name, str):
        raise InvalidArgumentError(
            f"Expected run=<run folder>, got run={name}; a name that Hydra reads as a value needs "
            f"quotes: {typed('run', str(name))}"
        )
    run = RunFolder(name)
    run.check_links()
    return run, read_yaml(run, "config")


def _resume(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check the configuration that a run has saved, and replace this command's one by it."""
    run, saved = _read_run(config.run)
    others = [each for each in overrides if not each.startswith(("run=", "hydra.mode="))]
    if others:
        raise InvalidArgumentError(
            f"{quoted('run', config.run)} resumes a run exactly as it was started, so nothing else "
            f"may be set; got {' '.join(others)}. To continue from its last epoch in a new folder: "
            f"{_continuation(run, others)}"
        )
    place = str(run.path.absolute())
    with read_write(config.hydra), open_dict(config):
        config.hydra.run.dir = str(run)
        # The run's `.hydra` stays unchanged.
        config.hydra.output_subdir = None
        config.hydra.runtime.output_dir = place
        config.hydra.runtime.choices = choices_of(run)
        # The saved configuration interpolates some of these.
        HydraConfig.instance().set_config(config)
        paths = {"outputs": config.paths.outputs, "run": place}
        checked = trusted(saved, paths, run.path, None)
        for name in set(config) - {"hydra"}:
            del config[name]
        config.update(checked)


def _continuation(run: RunFolder, overrides: Sequence[str]) -> str:
    """Return the command that continues from a run's last checkpoint with other settings."""
    before = overrides_of(run)
    last = f"ckpt_path={run.checkpoint('last')}"
    # Attack: overrides that call code, in a command that the user pastes into a shell.
    if not all(map(PLAIN_OVERRIDE.fullmatch, before)):
        return f"the command that it was started with, and {shlex.join([*overrides, last])}"
    keys = {argument.lstrip("+~").partition("=")[0] for argument in (*overrides, "ckpt_path")}
    kept = [each for each in before if each.partition("=")[0] not in keys]
    return shlex.join(["python", "-m", "src.train", *kept, *overrides, last])


def _require_same_run(config: DictConfig) -> None:
    """Refuse a folder that contains a run with other overrides: it would mix two configurations."""
    run = RunFolder(config.hydra.run.dir)
    if not run.configuration("overrides").is_file():
        return
    run.check_links()
    before = overrides_of(run)
    if sorted(before) != sorted(config.hydra.overrides.task):
        raise RecordsError(
            f"{run} contains a run that was started with {' '.join(before)!r}. Resume it with "
            f"{typed('run', str(run))}, choose another folder, or remove this one. Nothing was "
            "overwritten"
        )


def _require_writable(folder: Path, setting: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only writing shows that a disk is full or a quota exhausted.
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(HYDRA_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordsError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder by {setting}=…"
        ) from error
