"""Keys and passwords: they are kept out of command lines and configurations, which are kept."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf.resolvers import oc

from smoothcert.errors import InvalidArgumentError

SECRET = re.compile(
    r"(^|_)(api_?keys?|access_?key|private_?key|client_?secret|secret(_?key)?|passw(or)?d|"
    r"passphrase|credentials?|token)$",
    re.IGNORECASE,
)
"""Names of settings that hold what nobody else may know. `tokens` are a transformer's."""
SECRET_VARIABLE = re.compile(rf"{SECRET.pattern}|_(key|pass|pat|auth)$", re.IGNORECASE)
"""Names of such variables of the environment."""
NO_SECRET = re.compile(r"(null|none|true|false|\?{3})?", re.IGNORECASE)
"""Values that are none, such as that of `class_token=true`."""
SHORTEST_SECRET = 12
"""Characters from which a variable's value is looked for: shorter ones may stand for themselves."""
INNER = re.compile(r"[{,]\s*([\w-]+)\s*:\s*([^,{}\[\]]*)")
"""Names and values in a value."""
VARIABLES = re.compile(r"oc\.env\s*:\s*['\"]?([^'\",}\s]+)")
"""Variables of the environment in a value."""


def environment(name: str, *default: Any) -> str | None:
    """Return a variable of the environment, as `${oc.env:…}` in configurations, if it is no secret.

    Args:
        name: the variable.
        default: what to return where it is not set.

    Raises:
        InvalidArgumentError: if it is a secret: configurations are kept and logged.

    Example:
        >>> environment("SMOOTHCERT_DATA", "data")
        'data'
    """
    if _is_secret(name):
        raise InvalidArgumentError(f"Expected no secret in a configuration, got ${{oc.env:{name}}}")
    return oc.env(name, *default)


def refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse a command line with a secret: Hydra and W&B would keep it with the run.

    Args:
        arguments: the command line.

    Raises:
        SystemExit: with where the secret belongs; the secret itself is not repeated.

    Example:
        >>> refuse_secrets(["src/train.py", "sigma=0.5", "model.arguments.class_token=true"])
    """
    for argument in arguments[1:]:
        found = next(_secrets_in(argument), None)
        if found is not None:
            raise SystemExit(
                f"Expected no secret on the command line, got one by {found}: it would be kept in "
                "the run folder. Set it in the environment, for example WANDB_API_KEY, or use "
                "`wandb login`"
            )


def _secrets_in(argument: str) -> Iterator[str]:
    """Yield what in an argument holds a secret, by name."""
    key, _, value = argument.partition("=")
    pattern = SECRET_VARIABLE if "env_set" in key else SECRET
    pairs = [(key.lstrip("+~"), value), *INNER.findall(value)]
    for name, said in pairs:
        last = re.split(r"[./@:]", name)[-1].replace("-", "_")
        if pattern.search(last) and not NO_SECRET.fullmatch(said.strip("'\" ")):
            yield name
    yield from (f"oc.env:{name}" for name in VARIABLES.findall(value) if _is_secret(name))
    yield from (
        f"the value of {name}"
        for name, secret in os.environ.items()
        if _is_secret(name) and len(secret) >= SHORTEST_SECRET and secret in argument
    )


def _is_secret(variable: str) -> bool:
    return SECRET_VARIABLE.search(variable) is not None
