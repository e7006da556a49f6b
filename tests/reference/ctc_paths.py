"""CTC by definition: every path there is, collapsed and summed. Exponential, for tiny shapes only.

Axes: s steps, v vocabulary; the blank is 0.

Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.1 (the map B) and equation 3.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

Labelling = tuple[int, ...]


def collapse(path_s: Sequence[int]) -> Labelling:
    """The map B: repeats merged, then blanks removed."""
    return tuple(token for token, _ in itertools.groupby(path_s) if token != 0)


def all_paths(steps: int, vocabulary: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(range(vocabulary), repeat=steps)


def labelling_probs(log_probs_sv: np.ndarray) -> dict[Labelling, float]:
    """The total probability of every labelling that some path gives (one that is not here has probability 0)."""
    probs_sv = np.exp(np.asarray(log_probs_sv, np.float64))
    totals: dict[Labelling, float] = {}
    for path_s in all_paths(*probs_sv.shape):
        prob = math.prod(probs_sv[step, token] for step, token in enumerate(path_s))
        totals[collapse(path_s)] = totals.get(collapse(path_s), 0.0) + prob
    return totals


def loss_nats(log_probs_sv: np.ndarray, targets_u: Sequence[int]) -> float:
    """-ln P(labelling): infinite where no path collapses to it."""
    prob = labelling_probs(log_probs_sv).get(tuple(targets_u), 0.0)
    return -math.log(prob) if prob > 0 else math.inf


def best_labelling(log_probs_sv: np.ndarray) -> tuple[Labelling, float]:
    """The most probable labelling over all of its paths, and its log-probability."""
    probs = labelling_probs(log_probs_sv)
    best = max(probs, key=lambda labelling: probs[labelling])
    return best, math.log(probs[best])


def greedy(log_probs_sv: np.ndarray) -> Labelling:
    """The labelling of the single most probable path; ties go to the lower token."""
    return collapse([list(row).index(max(row)) for row in log_probs_sv])


def differentiable_loss(log_probs_sv: torch.Tensor, targets_u: Sequence[int]) -> torch.Tensor:
    """The loss as a sum over paths that autograd can walk back."""
    steps, vocabulary = log_probs_sv.shape
    matching = [path_s for path_s in all_paths(steps, vocabulary) if collapse(path_s) == tuple(targets_u)]
    path_log_probs = log_probs_sv[torch.arange(steps), torch.tensor(matching)].sum(1)
    return -path_log_probs.logsumexp(0)
