"""Where the tokens of a text are: the most probable path that writes it.

Axes: s steps, v vocabulary, u tokens of the text, k states of the text (blank, token, blank, ..., token, blank).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID
from asr.decode.types import LogProbs, Span


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
    step_s = np.arange(len(path_s))
    first_k, last_k, peak_k = np.zeros_like(labels_k), np.zeros_like(labels_k), np.full(len(labels_k), -np.inf)
    first_k[path_s[::-1]] = step_s[::-1]  # what is assigned last stays
    last_k[path_s] = step_s
    np.maximum.at(peak_k, path_s, log_probs_sv[step_s, labels_k[path_s]])
    lead = 1 if delimiter >= 0 else 0
    own = slice(2 * lead + 1, 2 * (lead + len(tokens_u)), 2)
    columns = (each_k[own].tolist() for each_k in (labels_k, first_k, last_k + 1, peak_k))
    return tuple(map(Span._make, zip(*columns, strict=True)))


def possible(log_probs_sv: LogProbs, floor: float) -> npt.NDArray[np.float64]:
    """The log-probabilities with -inf at tokens that are not allowed."""
    return np.where(allowed(log_probs_sv, floor), log_probs_sv, -np.inf).astype(np.float64)


def allowed(log_probs_sv: LogProbs, floor: float) -> npt.NDArray[np.bool_]:
    """Which tokens are not below the floor, each step's best excepted."""
    allowed_sv: npt.NDArray[np.bool_] = log_probs_sv >= floor
    allowed_sv[np.arange(len(log_probs_sv)), log_probs_sv.argmax(axis=1)] = True
    return allowed_sv


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
    if not steps:
        return np.zeros(0, np.int64)
    ends = min(2 if delimiter < 0 else 4, states)
    # what it costs to come to a state from 2 before it, 1 before it, itself, 1 after it
    cost_4k = np.full((4, states), -np.inf)
    cost_4k[0, 3::2][labels_k[3::2] != labels_k[1:-2:2]] = 0.0  # a token may follow another without a blank between
    cost_4k[1:3] = 0.0
    cost_4k[3, 1::2][labels_k[1::2] == delimiter] = 0.0  # the delimiter once more, after a blank
    only_blank_s = (log_probs_sv[:, BLANK_ID + 1 :] == -np.inf).all(axis=1)
    # where only the blank is possible again, all stay and all change by the same
    step_s = np.flatnonzero(~only_blank_s | ~np.append(False, only_blank_s[:-1]) | (np.arange(steps) == 0))
    best_sk = np.full((len(step_s), states + 3), -np.inf)  # two more states before the first, one after the last
    best_sk[:, 2:-1] = log_probs_sv[step_s[:, None], labels_k]
    best_sk[0, 2 + ends :] = -np.inf
    from_s4k = np.lib.stride_tricks.sliding_window_view(best_sk, 4, axis=1).swapaxes(1, 2)
    came_4k, most_k = np.empty((4, states)), np.empty(states)
    for before_4k, best_k in zip(from_s4k[:-1], best_sk[1:, 2:-1], strict=True):
        np.add(before_4k, cost_4k, out=came_4k)
        best_k += np.maximum.reduce(came_4k, axis=0, out=most_k)
    last = states - ends + int(best_sk[-1, 2 + states - ends : 2 + states].argmax())
    if best_sk[-1, 2 + last] == -np.inf:
        return None
    path, costs = [last], cost_4k.T.tolist()
    for before in best_sk[-2::-1]:
        skip, after, stay, back = map(add, before[last : last + 4].tolist(), costs[last])
        came = stay, after, skip, back
        last += (0, -1, -2, 1)[came.index(max(came))]
        path.append(last)
    return np.repeat(path[::-1], np.diff(step_s, append=steps))
