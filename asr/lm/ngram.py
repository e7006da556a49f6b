"""N-gram language models in one place: read, write, save, load, estimate, score.

>>> model = train(["the cat sat", "the dog sat"], order=2)  # too small to compute discounts: a warning says so
>>> model.score_words(["the", "cat"], eos=False).round(2).tolist()
[-0.54, -1.1]
"""

from __future__ import annotations

from pathlib import Path

from asr.files import open_regular
from asr.lm.arpa_reader import parse_arpa as parse_arpa
from asr.lm.arpa_reader import read_arpa
from asr.lm.arpa_writer import write_arpa
from asr.lm.binary import MAGIC, load_binary, save_binary
from asr.lm.estimate import train as train
from asr.lm.files import read_lines as read_lines
from asr.lm.files import reading
from asr.lm.kenlm import MAGIC as KENLM_MAGIC
from asr.lm.kenlm import load_kenlm
from asr.lm.model import NgramModel as NgramModel
from asr.lm.perplexity import Perplexity as Perplexity
from asr.lm.perplexity import perplexity as perplexity


def load(path: str | Path) -> NgramModel:
    """Load the model in a file: binary, ARPA, ARPA as gzip, or KenLM's binary; its content says which.

    Raises:
        DataError: the file is damaged or something else.
        AsrError: it cannot be read.
    """
    path = Path(path)
    with reading(path), open_regular(path) as file:
        head = file.read(len(KENLM_MAGIC))
    if head == KENLM_MAGIC:
        return load_kenlm(path)
    return load_binary(path) if head.startswith(MAGIC[:11]) else read_arpa(path)


def write(model: NgramModel, path: str | Path) -> None:
    """Write a model in the form that the name asks for: ``.arpa`` and ``.arpa.gz`` are ARPA, all else binary.

    Raises:
        AsrError: it cannot be written.
    """
    if Path(path).name.endswith((".arpa", ".gz")):
        write_arpa(model, path)
    else:
        save_binary(model, path)
