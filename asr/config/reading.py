"""Read configs from YAML and from ``--set key=value``, with errors that name the nearest key; write them as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from asr.config.messages import first_error, type_in_yaml, unknown_key
from asr.config.stage import Stage
from asr.errors import ConfigError, os_reason
from asr.files import read_small
from asr.limits import CONFIG_FILE

if TYPE_CHECKING:
    from asr.config.stages import RunConfig

S = TypeVar("S", bound=Stage)


def parse(kind: type[S], data: Any, source: str) -> S:
    """Make a config from plain values.

    Raises:
        ConfigError: an unknown key (the nearest is named) or a value that does not fit; the message begins with
            ``source``.
    """
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping of stages, got {type_in_yaml(data)}")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        key, line = first_error(kind, error)
        raise ConfigError(f"{source}: {line}", key=key) from error


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the run config in a YAML file, with ``key=value`` overrides applied.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds an unknown key or a bad value.
    """
    import yaml

    from asr.config.documents import read_yaml
    from asr.config.stages import RunConfig  # use needs none of training's stages

    path = Path(path)
    try:
        text = read_small(path, CONFIG_FILE).decode("utf-8")
        data = read_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {os_reason(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an impossible date
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: not valid YAML ({reason})") from error

    if not text.strip():  # cut short, or written by mistake: the defaults are a large network
        raise ConfigError(f"{path}: the config is empty; for the defaults alone write {{}}")

    config = parse(RunConfig, data, str(path))
    return override(config, overrides) if overrides else config


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Apply dotted ``key=value`` settings to a config; values are read as YAML.

    >>> from asr.config import RunConfig
    >>> override(RunConfig(), ["optim.lr=0.002"]).optim.lr
    0.002
    >>> override(RunConfig(), ["train.freeze.layers.0=100"]).train.freeze
    {'layers.0': 100}

    Raises:
        ConfigError: no ``=``, an unknown key, or a value that does not fit.
    """
    from asr.config.stages import RunConfig  # use needs none of training's stages

    data = config.model_dump(mode="json")
    for item in overrides:
        key, value = split_setting(item, example="optim.lr=0.001")
        try:
            node, leaf = _place(config, data, key.split("."))
        except ConfigError as error:
            raise ConfigError(f"--set {item}: {error}", key=key) from error
        node[leaf] = value

    return parse(RunConfig, data, "--set " + " ".join(overrides))


def _place(config: Stage, data: dict[str, Any], parts: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the mapping in which a value stands, and its key there: a mapping of the config's own has dots in keys."""
    from asr.config.stages import RunConfig

    node: dict[str, Any] = data
    stage: Any = config
    for depth, part in enumerate(parts[:-1], start=1):
        child = node.get(part)
        if not isinstance(child, dict):
            if part in node:
                raise ConfigError(f"'{'.'.join(parts[:depth])}' has no keys of its own; set it whole, as YAML")
            raise ConfigError(unknown_key(RunConfig, parts[:depth]))
        node, stage = child, getattr(stage, part, None)
        if not isinstance(stage, Stage):
            return node, ".".join(parts[depth:])
    return node, parts[-1]


def split_setting(item: str, *, example: str) -> tuple[str, Any]:
    """Split a ``key=value`` setting; the value is read as YAML.

    Raises:
        ConfigError: no ``=``, or the value is not YAML.
    """
    import yaml

    from asr.config.documents import read_yaml

    key, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(f"--set {item}: expected key=value, for example {example}")
    try:
        return key.strip(), read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {item}: the value is not valid YAML", key=key) from error


def flat(config: Stage, prefix: str = "") -> dict[str, Any]:
    """Return the values of all keys by their dotted names, as JSON has them; a mapping is one value.

    >>> from asr.config import RunConfig
    >>> flat(RunConfig())["train.epochs"], flat(RunConfig())["train.freeze"]
    (30, {})
    """
    values: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        inner = getattr(config, name)
        values |= flat(inner, f"{prefix}{name}.") if isinstance(inner, Stage) else {prefix + name: value}
    return values


def to_yaml(config: Stage) -> str:
    """Return the config as YAML, with every value."""
    import yaml

    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
