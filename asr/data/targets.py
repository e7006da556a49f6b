"""Transcripts as token ids, many of them in little memory."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import Tokenizer
from asr.errors import DataError


def min_steps(targets_u: Sequence[int]) -> int:
    """Return the fewest steps that write these tokens: one each, and a blank between equal neighbours.

    >>> min_steps([8, 5, 12, 12, 15])
    6

    Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.1 (the map B).
    """
    return len(targets_u) + sum(a == b for a, b in itertools.pairwise(targets_u))


class PackedTargets(Sequence[list[int]]):
    """The token ids of many transcripts, packed: as lists, LibriSpeech's would take half a gigabyte."""

    def __init__(self, targets: Iterable[Sequence[int]], vocabulary_size: int) -> None:
        code = "B" if vocabulary_size <= 2**8 else "H" if vocabulary_size <= 2**16 else "i"
        flat = array(code)
        ends = array("q", [0])
        for ids in targets:
            if code == "B":
                flat.frombytes(bytes(ids))  # four times as fast as extending it
            else:
                flat.extend(ids)
            ends.append(len(flat))

        self._flat = np.frombuffer(flat, np.dtype(code))
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._flat[self._ends[index] : self._ends[index + 1]].tolist()

    def lengths(self) -> npt.NDArray[np.int64]:
        """Shapes: (utterances,)."""
        return np.diff(self._ends)

    def min_steps(self) -> npt.NDArray[np.int64]:
        """Return ``min_steps`` of each, all at once. Shapes: (utterances,)."""
        starts = self._ends[:-1]
        ends = self._ends[1:]
        repeats = np.flatnonzero(self._flat[1:] == self._flat[:-1])  # at i: token i + 1 is token i again
        first = np.searchsorted(repeats, starts)
        last = np.searchsorted(repeats, np.maximum(starts, ends - 1))
        return ends - starts + last - first


def targets_of(manifest: Manifest, tokenizer: Tokenizer, normalization: str) -> PackedTargets:
    """Return the token ids of every transcript.

    Raises:
        DataError: a transcript has a character that the tokenizer does not know; the utterance is named.
    """

    def encoded() -> Iterator[list[int]]:
        for utterance in manifest:
            try:
                yield tokenizer.encode(normalize(utterance.text, normalization))
            except DataError as error:
                raise DataError(f"utt '{utterance.id}': {error}", manifest.path) from error

    return PackedTargets(encoded(), tokenizer.vocabulary_size)
