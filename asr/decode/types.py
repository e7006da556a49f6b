"""What decoders take and return.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A token, and the steps at which it was emitted: ``start`` to ``end``, the end not included."""

    token: int
    start: int
    end: int


@dataclass(frozen=True)
class Hypothesis:
    """A transcript: its text, its score (natural log), and where its tokens are."""

    text: str
    log_prob: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class TimedWord:
    """A word and when it is said, in seconds from the start of the audio."""

    word: str
    start_s: float
    end_s: float


def check_log_probs(log_probs_sv: LogProbs) -> None:
    """Refuses what is not log-probabilities, and says what it looks like.

    Raises:
        ValueError: the shape is not (steps, vocabulary), a value is not a number, or a row does not sum to 1.
    """
    if log_probs_sv.ndim != 2:
        raise ValueError(f"log_probs must have the shape (steps, vocabulary), got {log_probs_sv.shape}")
    if not len(log_probs_sv):
        return
    if np.isnan(log_probs_sv).any():
        step = int(np.isnan(log_probs_sv).any(axis=1).argmax())
        raise ValueError(f"log_probs has a value that is not a number in step {step}")
    with np.errstate(over="ignore"):
        sums_s = np.exp(log_probs_sv.astype(np.float64)).sum(axis=1)
    # 1e-3: float32 log-softmax over 10,000 tokens stays within 1e-4; bf16 emissions within 1e-2 are refused on purpose
    wrong = np.abs(sums_s - 1) > 1e-3
    if wrong.any():
        step = int(wrong.argmax())
        hint = "did you pass probabilities?" if (log_probs_sv >= 0).all() else "did you pass logits?"
        raise ValueError(f"log_probs rows must sum to 1 (got {sums_s[step]:.4g} in step {step}): {hint}")
