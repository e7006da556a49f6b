"""Where the tokens of a text are: the most probable path that writes it.

Axes: s steps, v vocabulary, u tokens of the text, k states of the text (blank, token, blank, ..., token, blank).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asr.decode.types import LogProbs, Span
from asr.tokenizer import BLANK_ID


def spans_of(
    log_probs_sv: LogProbs, tokens_u: Sequence[int], delimiter: int = -1, floor: float = -math.inf
) -> tuple[Span, ...]:
    """The spans of a text's tokens on the most probable single path that writes it.

    With a delimiter, paths with more of it than the text has count too: at both ends, and doubled with blanks between.
    With a floor, a token below it is taken as impossible in a step, unless it is the step's best (and unless no path
    is left). Ties go to the path that stays longest where it is, seen from the end.

    Raises:
        ValueError: no path of positive probability writes the text in so few steps.

    >>> log_probs_sv = np.log(np.array([[0.2, 0.6, 0.2], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]], np.float32))
    >>> [(span.token, span.start, span.end) for span in spans_of(log_probs_sv, [1, 2])]
    [(1, 0, 1), (2, 2, 3)]
    """
    labels_k = states_of(tokens_u, delimiter)
    path_s = _best_path(possible(log_probs_sv, floor), labels_k, delimiter)
    if path_s is None:
        path_s = _best_path(log_probs_sv.astype(np.float64), labels_k, delimiter)
    if path_s is None:
        raise ValueError("no path of positive probability writes the text")
    lead = 1 if delimiter >= 0 else 0
    spans = []
    for place, token in enumerate(tokens_u):
        steps = np.flatnonzero(path_s == 2 * (place + lead) + 1)
        peak = float(log_probs_sv[steps, token].max())
        spans.append(Span(int(token), int(steps[0]), int(steps[-1]) + 1, peak))
    return tuple(spans)


def possible(log_probs_sv: LogProbs, floor: float) -> npt.NDArray[np.float64]:
    """The log-probabilities with -inf at tokens below the floor, each step's best excepted."""
    allowed_sv = log_probs_sv >= floor
    allowed_sv[np.arange(len(log_probs_sv)), log_probs_sv.argmax(axis=1)] = True
    return np.where(allowed_sv, log_probs_sv, -np.inf).astype(np.float64)


def states_of(tokens_u: Sequence[int], delimiter: int) -> npt.NDArray[np.int32]:
    """The token of each state of a text: blanks between, and optional delimiters at both ends."""
    labels = list(tokens_u)
    if delimiter >= 0:
        labels = [delimiter, *labels, delimiter]
    labels_k = np.full(2 * len(labels) + 1, BLANK_ID, np.int32)
    labels_k[1::2] = labels
    return labels_k


def _best_path(
    log_probs_sv: npt.NDArray[np.float64], labels_k: npt.NDArray[np.int32], delimiter: int
) -> npt.NDArray[np.int64] | None:
    """The state at each step of the most probable path; None when there is none."""
    steps, states = len(log_probs_sv), len(labels_k)
    path_s = np.zeros(steps, np.int64)
    if not steps:
        return path_s
    ends = min(2 if delimiter < 0 else 4, states)
    is_delimiter_k = (labels_k == delimiter) & (np.arange(states) % 2 == 1)
    skips_k = np.zeros(states, np.bool_)  # a token may follow another one without a blank between
    skips_k[3::2] = labels_k[3::2] != labels_k[1:-2:2]
    only_blank_s = (log_probs_sv[:, BLANK_ID + 1 :] == -np.inf).all(axis=1).tolist()
    moves_sk = np.zeros((steps, states), np.int8)
    best_k = np.full(states, -np.inf)
    best_k[:ends] = log_probs_sv[0, labels_k[:ends]]
    for step in range(1, steps):
        if only_blank_s[step] and only_blank_s[step - 1]:
            continue  # all stay, and all change by the same
        from_k = np.full((4, states), -np.inf)
        from_k[0] = best_k
        from_k[1, 1:] = best_k[:-1]
        from_k[2, 2:] = np.where(skips_k[2:], best_k[:-2], -np.inf)
        from_k[3, :-1] = np.where(is_delimiter_k[:-1], best_k[1:], -np.inf)  # the delimiter once more, after a blank
        moves_sk[step] = from_k.argmax(axis=0)
        best_k = from_k.max(axis=0) + log_probs_sv[step, labels_k]
    last = states - ends + int(best_k[-ends:].argmax())
    if best_k[last] == -np.inf:
        return None
    for step in range(steps - 1, -1, -1):
        path_s[step] = last
        last += (0, -1, -2, 1)[moves_sk[step, last]]
    return path_s
