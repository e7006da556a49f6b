"""Importers: recipes for anybody's data in a known form. They read what is there and copy no audio."""

from __future__ import annotations

from asr.corpora.importers.combined import COMBINED
from asr.corpora.importers.folder import FOLDER
from asr.corpora.importers.kaldi import KALDI
from asr.corpora.importers.nemo import NEMO
from asr.corpora.importers.table import CSV
from asr.corpora.recipe import Recipe

IMPORTERS: dict[str, Recipe] = {recipe.name: recipe for recipe in (KALDI, NEMO, CSV, FOLDER, COMBINED)}
