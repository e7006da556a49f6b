"""Find where the tokens of a text are: on the most probable path that writes it.

Plain numpy: the definition that ``asr.decode.compiled.viterbi`` is held against.

Axes: s steps, v vocabulary, u tokens of the text, k states of the text (blank, token, blank, ..., token, blank).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID
from asr.decode.types import LogProbs, Span

#: where a state is reached from, in the order in which ties are broken: itself, the state before it, the token before
#: it, or (a delimiter) the blank after it
MOVES = np.array([0, -1, -2, 1], np.int8)


def spans_of(
    log_probs_sv: LogProbs, tokens_u: Sequence[int], delimiter: int = -1, floor: float = -math.inf
) -> tuple[Span, ...]:
    """Return the spans of a text's tokens on the most probable single path that writes it.

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
    possible_sv = log_probs_sv >= floor
    possible_sv[np.arange(len(log_probs_sv)), log_probs_sv.argmax(axis=1)] = True
    state_s = _best_path(np.where(possible_sv, log_probs_sv, -np.inf).astype(np.float64), labels_k, delimiter)
    if state_s is None:
        state_s = _best_path(log_probs_sv.astype(np.float64), labels_k, delimiter)
    if state_s is None:
        raise ValueError("no path of positive probability writes the text")

    spans = []
    first = 1 if delimiter < 0 else 3

    for state in range(first, first + 2 * len(tokens_u), 2):
        step_s = np.flatnonzero(state_s == state)
        token = int(labels_k[state])
        peak = float(log_probs_sv[step_s, token].max())
        spans.append(Span(token, int(step_s[0]), int(step_s[-1]) + 1, peak))

    return tuple(spans)


def states_of(tokens_u: Sequence[int], delimiter: int) -> npt.NDArray[np.int32]:
    """Return the token of each state of a text: blanks between, and optional delimiters at both ends."""
    labels = list(tokens_u)
    if delimiter >= 0:
        labels = [delimiter, *labels, delimiter]
    labels_k = np.full(2 * len(labels) + 1, BLANK_ID, np.int32)
    labels_k[1::2] = labels
    return labels_k


def _best_path(
    log_probs_sv: npt.NDArray[np.float64], labels_k: npt.NDArray[np.int32], delimiter: int
) -> npt.NDArray[np.int64] | None:
    """Return the state at each step of the most probable path; None: there is none."""
    steps, states = len(log_probs_sv), len(labels_k)
    if not steps:
        return np.zeros(0, np.int64)
    ends = min(2 if delimiter < 0 else 4, states)
    cost_4k = np.full((4, states), -np.inf)
    cost_4k[:2] = 0.0
    cost_4k[2, 3::2][labels_k[3::2] != labels_k[1:-2:2]] = 0.0  # a token may follow another one without a blank between
    cost_4k[3, 1::2][labels_k[1::2] == delimiter] = 0.0  # the delimiter once more, after a blank
    only_blank_s = (log_probs_sv[:, BLANK_ID + 1 :] == -np.inf).all(axis=1)

    moves_sk = np.zeros((steps, states), np.int8)
    best_k = np.full(states + 3, -np.inf)  # two more states before the first, one after the last
    best_k[2 : 2 + ends] = log_probs_sv[0, labels_k[:ends]]

    for step in range(1, steps):
        if only_blank_s[step - 1] and only_blank_s[step]:
            continue  # every path stays, and all change by the same
        came_4k = np.stack([best_k[2:-1], best_k[1:-2], best_k[:-3], best_k[3:]]) + cost_4k
        moves_sk[step] = MOVES[came_4k.argmax(axis=0)]
        best_k[2:-1] = came_4k.max(axis=0) + log_probs_sv[step, labels_k]

    state = states - ends + int(best_k[2 + states - ends : -1].argmax())
    if best_k[2 + state] == -np.inf:
        return None
    path = [state]
    for step in range(steps - 1, 0, -1):
        state += int(moves_sk[step, state])
        path.append(state)
    return np.array(path[::-1])
