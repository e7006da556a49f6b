"""Writing of ARPA files, the text form of a back-off n-gram model.

Axes: n nodes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO

import numpy as np

from asr.lm.files import write_parts
from asr.lm.model import LN10, Floats, NgramModel

#: lines written at a time
_BLOCK = 100_000


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Writes a model as ARPA; as gzip where the name ends in ``.gz``. The file appears whole or not at all.

    Nine significant digits: reading the file gives the same float32 numbers.

    Raises:
        AsrError: it cannot be written.
    """
    path = Path(path)

    def write(file: IO[bytes]) -> None:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.writelines(_lines(model))
        else:
            file.writelines(_lines(model))

    write_parts(path, write)


def _lines(model: NgramModel) -> Iterator[bytes]:
    arrays, unk = model.arrays, 1 - model.has_unk
    contexts_n, words_n = model.contexts_and_words()
    counts = [model.counts[0] - unk, *model.counts[1:]]
    yield "\n".join(["\\data\\", *(f"ngram {n}={c}" for n, c in enumerate(counts, start=1)), ""]).encode()
    ends = [1, *(1 + total for total in accumulate(model.counts))]
    below: Sequence[str] = [""]
    for order, (start, end) in enumerate(pairwise(ends), start=1):
        yield f"\n\\{order}-grams:\n".encode()
        words = [model.words[w] for w in words_n[start:end].tolist()]
        if order == 1:
            texts = words
        else:
            offset = ends[order - 2]
            texts = [f"{below[c - offset]} {w}" for c, w in zip(contexts_n[start:end].tolist(), words, strict=True)]
        log_probs = _digits(arrays.log_probs[start:end])
        backoffs = None if order == model.order else _digits(arrays.backoffs[start:end])
        for first in range(unk if order == 1 else 0, end - start, _BLOCK):
            block = slice(first, first + _BLOCK)
            if backoffs is None:
                lines = [f"{p}\t{t}\n" for p, t in zip(log_probs[block], texts[block], strict=True)]
            else:
                rows = zip(log_probs[block], texts[block], backoffs[block], strict=True)
                lines = [f"{p}\t{t}\t{b}\n" for p, t, b in rows]
            yield "".join(lines).encode()
        below = texts
    yield b"\n\\end\\\n"


def _digits(natural: Floats) -> list[str]:
    """Natural logarithms as the shortest text of nine digits of their log10."""
    return [f"{value:.9g}" for value in (natural.astype(np.float64) / LN10).tolist()]
