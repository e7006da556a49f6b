"""Parts of a network: which are not trained (yet), and what holds for each.

A part is the beginning of its parameters' names, up to a dot: ``layers.1`` has ``layers.1.norm.weight_g`` and not
``layers.10.norm.weight_g``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

from asr.errors import ConfigError, nearest

T = TypeVar("T")
_KEY = "train.freeze"


class Freezing:
    """Freeze parts of a network until their step (``train.freeze``).

    What is frozen gets no gradient, and its norms take their running statistics, which stay as they are. Dropout and
    masks in it go on: they belong to what is trained behind it.

    Raises:
        ConfigError: a part is unknown, or nothing is left to train.
    """

    def __init__(self, network: nn.Module, steps: Mapping[str, int | None]) -> None:
        self.network = network
        named = dict(network.named_parameters())
        until = by_parameter(named, {part: math.inf if step is None else step for part, step in steps.items()}, _KEY)
        if named and len(until) == len(named):
            raise ConfigError(f"{_KEY} leaves nothing to train in the first step", key=_KEY)

        self._until = {named[name]: step for name, step in until.items()}
        self._norms = [(module, step) for module in network.modules() if (step := self._frozen_whole(module))]

    def _frozen_whole(self, module: nn.Module) -> float:
        """Return the step until which a module with statistics is frozen with all its weights; 0: never."""
        if not any(True for _ in module.buffers(recurse=False)):
            return 0
        return min((self.until(parameter) for parameter in module.parameters()), default=0)

    def until(self, parameter: nn.Parameter) -> float:
        """Return how many steps a parameter is not trained in: 0 to infinity."""
        return self._until.get(parameter, 0)

    def summary(self) -> str:
        """Say how much is frozen and how long; nothing where nothing is."""
        counts: Counter[float] = Counter()
        for parameter, until in self._until.items():
            counts[until] += parameter.numel()
        shown = [f"{n:,} {_how_long(until)}" for until, n in sorted(counts.items())]
        return f"frozen parameters: {', '.join(shown)}" if shown else ""

    def apply(self, steps: float) -> bool:
        """Freeze what is frozen after this many steps, and no more; return whether that is another set than before.

        It holds for the norms until the network's next ``train`` or ``eval``.

        Args:
            steps: infinity: all that is ever trained is trained.
        """
        is_changed = False
        for parameter, until in self._until.items():
            is_trained = _is_trained(until, steps)
            if parameter.requires_grad != is_trained:
                parameter.requires_grad_(is_trained)
                is_changed = True

        for norm, until in self._norms:
            norm.train(self.network.training and _is_trained(until, steps))
        return is_changed


def _how_long(until: float) -> str:
    return "in all steps" if until == math.inf else f"in the first {until:,} steps"


def _is_trained(until: float, steps: float) -> bool:
    return until <= steps and until < math.inf


def by_parameter(names: Iterable[str], values: Mapping[str, T], key: str) -> dict[str, T]:
    """Return the value of each parameter that is in a part with a value; of several such parts, the longest counts.

    >>> by_parameter(["a.b.c", "a.d", "e"], {"a": 1, "a.b": 2}, "key")
    {'a.b.c': 2, 'a.d': 1}

    Args:
        key: of the config that has the values.

    Raises:
        ConfigError: no parameter is in one of the parts.
    """
    names = list(names)
    found: dict[str, T] = {}
    for part in sorted(values, key=len):
        inside = [name for name in names if f"{name}.".startswith(f"{part}.")]
        if not inside:
            raise ConfigError(_unknown(part, names, key), key=key)
        found |= dict.fromkeys(inside, values[part])
    return {name: found[name] for name in names if name in found}


def _unknown(part: str, names: Iterable[str], key: str) -> str:
    parts: dict[str, None] = {}  # in order
    for name in names:
        words = name.split(".")
        parts |= dict.fromkeys(".".join(words[:i]) for i in range(1, len(words) + 1))
    first = ", ".join(dict.fromkeys(name.partition(".")[0] for name in parts))
    return f"{key}: no part of the network is named '{part}'{nearest(part, parts)} (parts: {first}, and parts of these)"
