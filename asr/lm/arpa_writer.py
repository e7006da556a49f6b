"""Writing of ARPA files, the text form of a back-off n-gram model."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.lm.arrays import LN10, Floats, nodes_by_order
from asr.lm.files import writing
from asr.lm.model import NgramModel


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Write a model as ARPA; as gzip where the name ends in ``.gz``. The file appears whole or not at all.

    Nine significant digits: reading the file gives the same float32 numbers.

    Raises:
        AsrError: it cannot be written.
    """
    path = Path(path)
    with writing(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.writelines(_lines(model))
        else:
            file.writelines(_lines(model))


def _lines(model: NgramModel) -> Iterator[bytes]:
    contexts_n, words_n = model.contexts_and_words()
    left_out = 0 if model.has_unk else 1  # <unk> has the first node, listed or not

    yield b"\\data\\\n"
    for order, count in enumerate(model.counts, start=1):
        yield f"ngram {order}={count - left_out if order == 1 else count}\n".encode()

    first_below = 0
    below = [""]
    for order, nodes in enumerate(nodes_by_order(model.counts), start=1):
        yield f"\n\\{order}-grams:\n".encode()
        words = [model.words[word] for word in words_n[nodes].tolist()]
        contexts = contexts_n[nodes].tolist()
        texts = words
        if order > 1:
            texts = [f"{below[c - first_below]} {word}" for c, word in zip(contexts, words, strict=True)]

        columns = [_log10_texts(model.arrays.log_probs[nodes]), texts]
        if order < model.order:
            columns.append(_log10_texts(model.arrays.backoffs[nodes]))
        for number, row in enumerate(zip(*columns, strict=True)):
            if order > 1 or number >= left_out:
                yield ("\t".join(row) + "\n").encode()
        first_below = nodes.start
        below = texts
    yield b"\n\\end\\\n"


def _log10_texts(natural: Floats) -> list[str]:
    """Return the log10 of natural logarithms as the shortest texts of nine digits."""
    return [f"{value:.9g}" for value in (natural.astype(np.float64) / LN10).tolist()]
