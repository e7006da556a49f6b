"""Importers: recipes for anybody's data in a known form. They read what is there and copy no audio."""

from __future__ import annotations

from asr.importers.folder import FOLDER
from asr.importers.kaldi import KALDI
from asr.importers.nemo import NEMO
from asr.importers.table import CSV
from asr.prepare import Recipe

IMPORTERS: dict[str, Recipe] = {recipe.name: recipe for recipe in (KALDI, NEMO, CSV, FOLDER)}
