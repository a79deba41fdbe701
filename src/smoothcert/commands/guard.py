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
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from smoothcert.commands.commandline import overrides_of, quoted, read_yaml, typed
from smoothcert.commands.error_handling import plain
from smoothcert.commands.launching import require_common_folder
from smoothcert.commands.security import refuse_secrets, trusted
from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import RunFolder

LAUNCHERS = ("hydra/launcher=slurm", "hydra/launcher=submitit")
"""Launchers that an extra of this package installs."""
HYDRAS_FILES = 2**16
"""Bytes that Hydra writes, at most, before a command begins."""
PLAIN_OVERRIDE = re.compile(r"(?!hydra\b)(?!.*(\$\{|_target_|\.\./))[\w.]+=.*")
"""Overrides that set a value or choose an option of `conf/`."""
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
"""Keys that a job's folder is not named by."""


def check_command_line(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would repeat, or answer with a trace, while it composes a configuration.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with what was expected: no secret, an option in place of a group's null, a
            launcher that is installed, values that Hydra can parse.

    Example:
        >>> check_command_line(["src/train.py", "-m", "sigma=0.25,0.5", "logger=csv"])
    """
    refuse_secrets(arguments)
    groups = Path(arguments[0]).resolve().parents[1] / "conf"
    for argument in arguments[1:]:
        key, _, value = argument.partition("=")
        if value == "null" and key.isidentifier() and (groups / key).is_dir():
            options = ", ".join(sorted(path.stem for path in (groups / key).glob("*.yaml")))
            raise SystemExit(f"Expected {key}= one of {options}, got null. To do without: '~{key}'")
        if argument.startswith(LAUNCHERS) and find_spec("submitit") is None:
            raise SystemExit(f"Expected submitit for {argument}: pip install 'smoothcert[slurm]'")
        if value and not _parses(argument) and _parses(quoted(key, value)):
            raise SystemExit(
                f"Expected quotes around the value of {argument}, which Hydra cannot parse: "
                f"{typed(key, value)}"
            )


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


class Guard(Callback):
    """Refuses a command before Hydra writes anything, in one line.

    Args:
        command: which of the commands it is.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Look at what a run is given, and at its folder.

        Raises:
            SystemExit: if a setting is missing or names no run, or the folder cannot be made or
                written, holds another run, or a link in it leads elsewhere.
        """
        # Hydra itself does so next; a folder's name may come from its values.
        HydraConfig.instance().set_config(config)
        with _one_line():
            self._require_subject(config)
            if self.command == "certify" and config.get("ckpt") is None:
                _require_run(config.run)
            if self.command == "train":
                given = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
                require_common_folder([self.command, *given])
                if config.run is not None:
                    _resume(config, given)
                else:
                    _require_same_run(config)
            # A merge writes to a folder that it finds by itself.
            if self.command != "merge":
                folder = Path(config.hydra.run.dir)
                _require_writable(folder, "hydra.run.dir")
                # A report's folder is no run folder.
                if config.hydra.output_subdir is not None:
                    RunFolder(folder).check_links()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Look at the folder of a sweep, and leave what its jobs share out of their names.

        Raises:
            SystemExit: if a setting is missing, or the folder cannot be made or written.
        """
        with _one_line():
            self._require_subject(config)
            runs = [each for each in config.hydra.overrides.task if each.startswith("run=")]
            if self.command == "train" and runs:
                raise InvalidArgumentError(
                    f"{runs[0]} resumes one run exactly as it was started; got it in a multirun"
                )
            _require_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            shared = _shared_keys(_given(config))
            with read_write(config):
                # Each job is composed anew, wherever it runs, with the overrides of Hydra's own
                # part.
                config.hydra.overrides.hydra.append(f"{EXCLUDED}={shared}")

    def _require_subject(self, config: DictConfig) -> None:
        """Refuse a command line that does not name what the command is about."""
        given = {each.key_or_group for each in _given(config)}
        if self.command == "certify" and not given & {"run", "ckpt"}:
            raise InvalidArgumentError(
                "Expected run=<run folder>, a folder that `python -m src.train` made, or "
                "ckpt=<file> model=<its network> sigma=<σ>"
            )
        if self.command == "certify" and given >= {"run", "ckpt"}:
            raise InvalidArgumentError(
                "Expected run=… or ckpt=…, got both: a run has its own weights"
            )
        if self.command in ("report", "merge") and "runs" not in given:
            raise InvalidArgumentError(
                "Expected runs='<folders>', for example runs='outputs/sweeps/**'"
            )


@contextmanager
def _one_line() -> Iterator[None]:
    """End the command at any error: Hydra warns of those in a callback, and runs it anyway."""
    try:
        yield
    except Exception as error:
        cause = plain(error)
        if cause is None:
            traceback.print_exc()
        raise SystemExit(1 if cause is None else str(cause)) from error


def _given(config: DictConfig) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))


def _shared_keys(overrides: Sequence[Override]) -> list[str]:
    """Return the keys that have one value in all jobs of a sweep."""
    different = {each.key_or_group for each in overrides if each.is_sweep_override()}
    return sorted({each.key_or_group for each in overrides} - different)


def _require_run(named: Any) -> RunFolder:
    if not isinstance(named, str):
        raise InvalidArgumentError(
            f"Expected run=<run folder>, got run={named}; a name that Hydra reads as a value needs "
            f"quotes: {typed('run', str(named))}"
        )
    run = RunFolder(named)
    if not run.configuration("config").is_file():
        raise InvalidArgumentError(
            f"Expected a run folder, got {named!r}: it has no .hydra/config.yaml"
        )
    run.check_links()
    return run


def _resume(config: DictConfig, given: Sequence[str]) -> None:
    """Replace this command's configuration by the one that a run has saved, once it was checked."""
    run = _require_run(config.run)
    others = [each for each in given if not each.startswith(("run=", "hydra.mode="))]
    if others:
        raise InvalidArgumentError(
            f"{quoted('run', config.run)} resumes a run exactly as it was started, so nothing else "
            f"may be set; got {' '.join(others)}. To train on from its last epoch, in a folder of "
            f"its own: {_continuation(run, others)}"
        )
    saved, place = read_yaml(run, "config"), str(run.path.absolute())
    with read_write(config.hydra), open_dict(config):
        config.hydra.run.dir = str(run)
        # Its configuration is there, and stays to the byte.
        config.hydra.output_subdir = None
        config.hydra.runtime.output_dir = place
        config.hydra.runtime.choices = choices_of(run)
        # What the configuration interpolates of Hydra's.
        HydraConfig.instance().set_config(config)
        paths = {"outputs": config.paths.outputs, "run": place}
        own = trusted(saved, paths, run.path, None)
        for name in set(config) - {"hydra"}:
            del config[name]
        config.update(own)


def choices_of(run: RunFolder) -> dict[str, str]:
    """Return the options that a run has of the groups of `conf/`.

    Args:
        run: the run folder.

    Raises:
        InvalidArgumentError: if it is no run folder.
        RecordsError: if the file is damaged.
    """
    # As they stand: what they interpolate is not followed.
    said: Any = OmegaConf.to_container(read_yaml(run, "hydra"))
    try:
        choices = dict(said["hydra"]["runtime"]["choices"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordsError(f"{run.configuration('hydra')} is damaged: {error}") from error
    if any("${" in str(each) for pair in choices.items() for each in pair):
        raise RecordsError(f"{run.configuration('hydra')} is damaged: expected plain choices")
    return choices


def _continuation(run: RunFolder, given: Sequence[str]) -> str:
    """Return the command that trains on from a run's last checkpoint with other settings."""
    overrides = overrides_of(run)
    last = f"ckpt_path={run.checkpoint('last')}"
    # Attack: overrides that call code, for the user to paste into a shell.
    if not all(map(PLAIN_OVERRIDE.fullmatch, overrides)):
        return f"the command that it was started with, and {shlex.join([*given, last])}"
    keys = {argument.lstrip("+~").partition("=")[0] for argument in (*given, "ckpt_path")}
    kept = [each for each in overrides if each.partition("=")[0] not in keys]
    return shlex.join(["python", "-m", "src.train", *kept, *given, last])


def _require_same_run(config: DictConfig) -> None:
    """Refuse a folder that holds a run with other overrides: two configurations would be mixed."""
    run = RunFolder(config.hydra.run.dir)
    if not run.configuration("overrides").is_file():
        return
    run.check_links()
    before = overrides_of(run)
    if sorted(before) != sorted(config.hydra.overrides.task):
        raise RecordsError(
            f"{run} holds a run that was started with {' '.join(before)!r}. Resume it with "
            f"{typed('run', str(run))}, or choose another folder; nothing was overwritten"
        )


def _require_writable(folder: Path, setting: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A disk that is full, or a quota, shows in what is written.
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(HYDRAS_FILES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordsError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder by {setting}=…"
        ) from error
