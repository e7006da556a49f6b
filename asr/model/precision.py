"""The precisions of networks in use, and which of them this processor has instructions for."""

from __future__ import annotations

from asr.config import ModelConfig
from asr.errors import ConfigError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def check_precision(precision: str) -> None:
    """Refuse an unknown precision, with a ConfigError."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"unknown precision '{precision}' ({known}){nearest(precision, PRECISIONS)}", key="precision")


def has_inference_network(cfg: ModelConfig) -> bool:
    """Return true if ``asr.model.cpu.inference`` has this kind of network."""
    return cfg.encoder == "recurrent" and bool(cfg.conv)


def inference_precision(precision: str) -> str | None:
    """Return the precision of an inference network; None: this processor has no instructions for any.

    Raises:
        ConfigError: it has none for the precision that is asked for.
    """
    # Imported here, since it loads numba in 0.2 s, which an exported model does not need.
    from asr.model.cpu.inference import runs_here

    if precision == "auto":
        return next((name for name in ("bf16", "fp32") if runs_here(name)), None)
    if not runs_here(precision):
        raise not_here(precision)
    return precision


def fp16_on_cpu() -> ConfigError:
    """Make the error about fp16 on a CPU."""
    return ConfigError("precision 'fp16' needs a CUDA device; on a CPU use bf16 or fp32", key="train.precision")


def not_here(precision: str) -> ConfigError:
    """Make the error about a precision that this processor does not have."""
    return ConfigError(f"precision {precision}: this processor has no such products; use auto", key="precision")
