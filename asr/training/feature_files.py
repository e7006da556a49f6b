"""Features in files, for later epochs and runs: worth it where a published network makes them.

A file is named for the samples and everything else that decides what is in it, so nothing in a folder is ever out of
date, and any number of runs and processes may use one.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

import asr
from asr.data.audio import Wave
from asr.errors import os_reason
from asr.features.extractor import Extractor
from asr.files import open_atomic
from asr.utterance import Features, extract

log = logging.getLogger(__name__)


class FeatureFiles:
    """Compute the features of utterances, or read them where a folder has them."""

    def __init__(self, extractor: Extractor, folder: str | None) -> None:
        """Take an extractor whose statistics will not change after the first call.

        Args:
            folder: where features are kept; None: nowhere.
        """
        self.extractor = extractor
        self.folder = None if folder is None else Path(folder).expanduser()
        self._settings = b""

    def __call__(self, wave_n: Wave) -> Features:
        """Return the features of one utterance, as ``asr.utterance.extract``. Shapes: (n,) -> (t, f)."""
        if self.folder is None:
            return extract(self.extractor, wave_n)
        path = self._path(self.folder, wave_n)
        features_tf = self._read(path)
        if features_tf is None:
            features_tf = extract(self.extractor, wave_n)
            self._write(path, features_tf)
        return features_tf

    def _path(self, folder: Path, wave_n: Wave) -> Path:
        if not self._settings:
            self._settings = json.dumps([asr.__version__, self.extractor.fingerprint()]).encode()
        digest = hashlib.sha256(self._settings)
        digest.update(wave_n.tobytes())
        name = digest.hexdigest()
        return folder / name[:2] / f"{name}.npy"

    def _read(self, path: Path) -> Features | None:
        """Return what a file holds; None if there is none, or a damaged one."""
        try:
            # Mapped first: a damaged header may ask for any size.
            mapped_tf = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception:  # numpy raises errors of six kinds for a file that is no array
            return None
        if not isinstance(mapped_tf, np.ndarray):  # an archive of several
            return None
        if mapped_tf.dtype != np.float32 or mapped_tf.ndim != 2 or mapped_tf.shape[1] != self.extractor.num_bins:
            return None
        return np.array(mapped_tf)

    def _write(self, path: Path, features_tf: Features) -> None:
        """Write a file; if that fails, say so and write no more: they can be computed again."""
        try:
            with open_atomic(path, "wb", sync=False) as file:
                np.save(file, features_tf)
        except OSError as error:
            log.warning("batch.feature_folder: %s: %s; features are not kept there", self.folder, os_reason(error))
            self.folder = None
