"""Importers: recipes for anybody's data in a known form. They read what is there and copy no audio."""

from __future__ import annotations

from asr.corpora.importers import combined, folder, kaldi, nemo, table
from asr.corpora.importers.importer import importer
from asr.corpora.recipe import Recipe

_ALL = (
    importer("kaldi", "Kaldi data directory", "https://kaldi-asr.org/doc/data_prep.html", "DIR", kaldi.read),
    importer("nemo", "NeMo manifest", nemo.SPECIFICATION, "FILE", nemo.read),
    importer(
        name="csv",
        title="Table with a header line (CSV, TSV)",
        homepage="https://www.rfc-editor.org/rfc/rfc4180",
        source="FILE",
        read=table.read,
        options=("audio_column", "text_column", "speaker_column"),
    ),
    importer("folder", "Folder of audio files with a .txt beside each", "", "DIR", folder.read),
    combined.COMBINED,
)

IMPORTERS: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
