"""The optimiser, schedules of learning rate and dropout, averages and copies of weights, and what is saved of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from asr.config import OptimConfig
from asr.runtime import Machine
from asr.training.freezing import by_parameter


def learning_rate(cfg: OptimConfig, before: float, after: float) -> float:
    """Return the learning rate of the step that takes the share of all steps done from ``before`` to ``after``.

    The warm-up goes by the share after the step, the decay by the share before it, so neither the first nor the last
    step is at 0. Beyond 1 the rate is 0 (or constant). Between the two it may be held (Baevski et al. 2020, "wav2vec
    2.0", section 4.3).

    >>> [learning_rate(OptimConfig(lr=1.0, warmup_fraction=0.5), x, x + 0.25) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if after < cfg.warmup_fraction:
        return cfg.lr * after / cfg.warmup_fraction

    begins = cfg.warmup_fraction + cfg.hold_fraction
    done = min(1.0, max(0.0, before - begins) / max(1e-9, 1 - begins))
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[cfg.decay]
    return cfg.lr * factor


def dropout(schedule: Sequence[tuple[float, float]], done: float) -> float:
    """Return the dropout when a share ``done`` of all steps is done: linear between the points of the schedule.

    >>> [dropout([(0.25, 0.0), (0.75, 0.5)], x) for x in (0.0, 0.5, 1.0)]
    [0.0, 0.25, 0.5]
    """
    shares, values = zip(*schedule, strict=True)
    return float(np.interp(done, shares, values))


def build_optimizer(network: nn.Module, cfg: OptimConfig) -> torch.optim.AdamW:
    """Build the optimiser of a network: a group of weights for each factor of the learning rate.

    Raises:
        ConfigError: ``lr_scales`` names an unknown part.
    """
    scales = by_parameter([name for name, _ in network.named_parameters()], cfg.lr_scales, "optim.lr_scales")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(scales.get(name, 1.0), []).append(parameter)

    decay = cfg.weight_decay if cfg.decay_towards == "zero" else 0.0
    described = [{"params": parameters, "lr_scale": scale} for scale, parameters in groups.items()]
    return torch.optim.AdamW(described, cfg.lr, cfg.betas, weight_decay=decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next update: of each group, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """List the weights of an optimiser, in the order in which its state is numbered."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class PullToStart:
    """Draw the weights towards those that training began with, in every update: weight decay with another origin.

    Of weights that are not updated (yet) nothing changes. With decay 0 it does nothing.

    Source: Li et al. 2018, "Explicit inductive bias for transfer learning with convolutional networks" (L2-SP);
    decoupled from the gradient, as in Loshchilov & Hutter 2019, "Decoupled weight decay regularization".
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self._decay = decay
        own = {name: p for name, p in network.named_parameters() if p.requires_grad} if decay else {}
        #: the weights at the start, of what is ever trained
        self.tensors = {name: parameter.detach().clone() for name, parameter in own.items()}
        self._start = {parameter: self.tensors[name] for name, parameter in own.items()}
        if decay:
            # Behind the update: one that runs out of memory raises before it, and is tried again.
            optimizer.register_step_post_hook(self._pull)

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # An update that a scaler of gradients leaves out (1.0: it does) must change nothing.
        found_inf = getattr(optimizer, "found_inf", None)
        for group in optimizer.param_groups:
            share = group["lr"] * self._decay
            if found_inf is not None:
                share = share * (1 - found_inf)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.lerp_(self._start[parameter], share)


class KeptTensors:
    """A copy of tensors, made again and put back without taking new memory, in few operations."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # Operations on lists are fast for one type: counters are apart from numbers.
        floats, counters = _by_type(tensors)
        self._pairs = [(kind, [tensor.clone() for tensor in kind]) for kind in (floats, counters) if kind]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the tensors as they are now."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(copies, tensors)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors the values of the last copy."""
        for tensors, copies in self._pairs:
            torch._foreach_copy_(tensors, copies)


def _by_type(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of floating-point numbers, and the others."""
    floats: list[Tensor] = []
    others: list[Tensor] = []
    for tensor in tensors:
        (floats if tensor.is_floating_point() else others).append(tensor)
    return floats, others


class MovingAverage:
    """The exponential moving average of a network's weights and statistics; with decay 0, the network itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        # A network's tensors stay where they are: loading weights copies into them.
        own = network.state_dict() if decay else {}
        self.tensors = {name: value.clone() for name, value in own.items()}
        self._own = _by_type(own.values())
        self._averages = _by_type(self.tensors.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network after a step. Early averages are short, to forget the random start."""
        if not self.tensors:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        (floats, counters), (own_floats, own_counters) = self._averages, self._own
        torch._foreach_lerp_(floats, own_floats, 1 - decay)
        if counters:
            torch._foreach_copy_(counters, own_counters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the averaged weights to the network while the block runs."""
        if not self.tensors:
            yield
            return

        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.network.load_state_dict(own)


def forget_incomplete_state(optimizer: torch.optim.Optimizer) -> None:
    """Forget the state of weights that AdamW has made in part, as it ran out of memory in its first step."""
    for parameter in [p for p, state in optimizer.state.items() if "exp_avg_sq" not in state]:
        del optimizer.state[parameter]


def gradient_scaler(machine: Machine) -> torch.amp.GradScaler:
    """Return the scaler of the gradients of a training in fp16, or one that does nothing.

    The smallest gradients are 0 in float16. So the loss is multiplied by a scale, and the gradients are divided by it.
    An update whose gradients are not finite is left out, and the scale is halved; after 2,000 others it is doubled.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """
    return torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")


def scale_of(scaler: torch.amp.GradScaler, like: Tensor) -> Tensor:
    """Return the scale as it is now; a number on the device of another one, so that nothing waits."""
    scale: Tensor = scaler.scale(torch.ones_like(like))
    return scale


def is_overflow(scaler: torch.amp.GradScaler, loss_nats: float, scale: float) -> bool:
    """Check whether a gradient that is not finite can be one beyond float16's range; if so, the scaler mends it.

    Below a scale of 1 it is not: the true gradient is too large.
    """
    return scaler.is_enabled() and math.isfinite(loss_nats) and scale >= 1


def scaler_tensors(scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Return the state of a scaler; nothing of one that does nothing."""
    if not scaler.is_enabled():
        return {}
    state = scaler.state_dict()
    return {"scale": torch.tensor(state["scale"]), "growth": torch.tensor(state["_growth_tracker"])}


def load_scaler(scaler: torch.amp.GradScaler, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``scaler_tensors`` returned; a training that was in another precision before has nothing to load."""
    if tensors and scaler.is_enabled():
        saved = {"scale": float(tensors["scale"]), "_growth_tracker": int(tensors["growth"])}
        scaler.load_state_dict(scaler.state_dict() | saved)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser, named by the place of each parameter and the kind of value."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value.detach().cpu() for i, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``optimizer_tensors`` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
