"""What is trained on together: rows of one utterance or several, and batches of rows, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from asr.config import JoinedConfig
from asr.data.manifest import Manifest


class Row(NamedTuple):
    """Stand for what the network takes as one utterance: one of the manifest, or several with pauses between them."""

    #: pairs of utterance (its place in the manifest) and speed
    parts: tuple[tuple[int, float], ...]
    #: seconds between them, one fewer than there are parts
    pauses_s: tuple[float, ...] = ()

    @classmethod
    def alone(cls, part: tuple[int, float]) -> Row:
        """Return a row of one utterance."""
        return cls((part,))

    def name(self, manifest: Manifest) -> str:
        """Return the id of the utterance, or the ids of joined ones with a plus between them."""
        return "+".join(manifest.utterances[index].id for index, _ in self.parts)

    def at_own_speeds(self) -> Row:
        """Return the same utterances, none of them faster or slower than it was spoken."""
        return Row(tuple((index, 1.0) for index, _ in self.parts), self.pauses_s)

    def without(self, left_out: set[int]) -> Row:
        """Return the row without some utterances, and without the pauses before them."""
        kept = [place for place, (index, _) in enumerate(self.parts) if index not in left_out]
        return Row(tuple(self.parts[place] for place in kept), tuple(self.pauses_s[place - 1] for place in kept[1:]))


@dataclass(frozen=True)
class BatchPlan:
    """A batch before it is loaded."""

    rows: tuple[Row, ...]
    epoch: int

    @classmethod
    def alone(cls, items: Iterable[tuple[int, float]], epoch: int) -> BatchPlan:
        """Return a batch in which every pair of utterance and speed is a row of its own."""
        return cls(tuple(map(Row.alone, items)), epoch)

    @property
    def items(self) -> tuple[tuple[int, float], ...]:
        """Return the pairs of utterance and speed of all rows."""
        return tuple(chain.from_iterable(row.parts for row in self.rows))


def into_batches(
    order: Iterable[int], durations_s: Sequence[float], max_utterances: int, max_batch_s: float
) -> list[list[int]]:
    """Divide rows, in this order, into batches of at most so many rows and padded seconds; return their places."""
    batches: list[list[int]] = [[]]
    longest_s = 0.0
    for place in order:
        longest_s = max(longest_s, durations_s[place])
        size = len(batches[-1]) + 1
        if batches[-1] and (size > max_utterances or size * longest_s > max_batch_s):
            batches.append([])
            longest_s = durations_s[place]
        batches[-1].append(place)
    return batches


def join_rows(
    rows: Sequence[Row],
    seconds: Sequence[float],
    cfg: JoinedConfig,
    longest_s: float,
    random: np.random.Generator,
) -> tuple[list[Row], list[Row]]:
    """Join a share of the rows, drawn at random, to rows of 2 up to ``cfg.most`` utterances.

    Each has as many as were drawn for it, or fewer if it would be longer than ``longest_s``.

    Args:
        rows: of one utterance each.
        seconds: the length of each.

    Returns:
        The rows that stay alone, in order, and the joined ones.
    """
    order = random.permutation(len(rows)).tolist()
    num_drawn = round(cfg.share * len(rows))
    drawn = order[:num_drawn]
    most = random.integers(2, cfg.most + 1, num_drawn).tolist()
    pauses_s = random.uniform(*cfg.pause_s, num_drawn).tolist()

    groups: list[tuple[list[int], list[float]]] = []
    length_s, left = 0.0, 0
    for place, wanted, pause_s in zip(drawn, most, pauses_s, strict=True):
        longer_s = length_s + pause_s + seconds[place]
        if left and longer_s <= longest_s:
            places, pauses = groups[-1]
            places.append(place)
            pauses.append(pause_s)
            length_s, left = longer_s, left - 1
        else:
            groups.append(([place], []))
            length_s, left = seconds[place], wanted - 1

    alone = order[num_drawn:] + [places[0] for places, _ in groups if len(places) == 1]
    joined = [
        Row(tuple(rows[place].parts[0] for place in places), tuple(pauses))
        for places, pauses in groups
        if len(places) > 1
    ]
    return [rows[place] for place in sorted(alone)], joined
