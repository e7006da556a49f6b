"""LJ Speech 1.1: one reader, 24 hours of English non-fiction from LibriVox (2017)."""

from __future__ import annotations

from asr.corpora.corpus import corpus_folder
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request, split_by
from asr.data.lines import stripped_lines
from asr.download.remote import Remote
from asr.errors import DataError

#: by chapter, as the corpus has no splits of its own; sentences of one chapter continue each other
SPLITS = {"LJ049": "dev", "LJ050": "test"}


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` (chapter LJ049) and ``test`` (chapter LJ050), with the normalised texts."""
    folder = corpus_folder(
        RECIPE, request, "metadata.csv", lambda name: name.endswith((".wav", "metadata.csv", "README"))
    )
    table = folder / "metadata.csv"
    rows = []
    dropped = {}

    for number, line in stripped_lines(table):
        # three fields, no quoting; the last one has numbers and abbreviations spelled out
        fields = line.split("|")
        if len(fields) != 3:
            raise DataError(f"expected 'id|text|normalised text', got {len(fields)} fields", table, number)
        rows.append(Row(fields[0], folder / "wavs" / f"{fields[0]}.wav", fields[2], "LJ"))

    utterances = measure(rows, request.out, dropped)
    return Corpus(split_by(utterances, lambda u: SPLITS.get(u.id.partition("-")[0], "train")), dropped)


RECIPE = Recipe(
    name="ljspeech",
    title="LJ Speech 1.1",
    hours=23.9,
    sample_rate_hz=22050,
    licence="public domain",
    homepage="https://keithito.com/LJ-Speech-Dataset/",
    prepare=prepare,
    archive="LJSpeech-1.1.tar.bz2 (2.7 GB) from the homepage",
    # The homepage gives no checksum. Size and MD5 are those that several others have published of their copy: pooch
    # recipes and NVIDIA's and MindSpore's Tacotron 2 (MD5); torchaudio has SHA-256 be1a3045…aa5 of the same file.
    files=(
        Remote(
            "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
            2_748_572_632,
            "c4763be9595ddfa79c2fc6eaeb3b6c8e",
        ),
    ),
    normalization="librispeech",
)
