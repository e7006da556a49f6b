"""Log-probabilities of a manifest under a model, kept on disk: one forward pass for any number of decodings.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from asr import __version__
from asr.data import shards
from asr.data.manifest import Manifest, Utterance
from asr.decode.types import LogProbs
from asr.errors import AsrError, DataError, os_reason
from asr.files import locked, part_folder, read_json, write_json
from asr.infer import of_manifest
from asr.limits import CACHE_INDEX
from asr.model.contract import AcousticModel
from asr.recordings.speech import NO_SPEECH_THRESHOLD


@dataclass(frozen=True)
class Emissions:
    """Utterances and their log-probabilities, one (s, v) array each; ``failed``: id -> why there are none."""

    utterances: list[Utterance]
    log_probs: list[LogProbs]
    failed: dict[str, str]
    #: where they are kept
    folder: Path
    #: whether they were there already
    found: bool


def emissions(
    model: AcousticModel,
    manifest: Manifest,
    cache: Path,
    progress: Callable[[float], None] = lambda audio_s: None,
) -> Emissions:
    """Return the log-probabilities of a manifest, from ``cache`` if this model has seen this audio before.

    They are kept as float32, mapped and not read: exactly what the model gave, and memory stays free. They are found
    again by the weights, the settings of features and audio, the audio files' sizes and times, and the version of this
    package; texts do not matter. What is damaged is computed again.

    Raises:
        DataError: not one utterance can be used.
        AsrError: the cache cannot be read or written.
    """
    folder = cache / _key(model, manifest)
    size = model.tokenizer.vocabulary_size
    doing = "read"
    try:
        kept = _load(folder, size)
        found = kept is not None
        if kept is None:
            doing = "write"
            _fill(folder, model, manifest, progress)
            kept = _load(folder, size)
            assert kept is not None  # just written
    except OSError as error:
        raise AsrError(f"{folder}: cannot {doing}: {os_reason(error)}; choose another place with --cache") from error

    index, all_sv = kept
    parts = np.split(all_sv, np.cumsum(index["steps"])[:-1]) if index["ids"] else []
    by_id = dict(zip(index["ids"], parts, strict=True))
    rows = [u for u in manifest if u.id in by_id]
    if not rows:
        raise DataError(f"no utterance could be read; the first: {next(iter(index['failed'].values()))}", manifest.path)
    return Emissions(rows, [np.asarray(by_id[u.id]) for u in rows], index["failed"], folder, found)


def _load(folder: Path, vocabulary_size: int) -> tuple[dict[str, Any], LogProbs] | None:
    """Return the index and all rows, mapped; None where there are none or they are damaged."""
    try:
        index = read_json(folder / "index.json", CACHE_INDEX)
        all_sv = np.load(folder / "log_probs.npy", mmap_mode="r")
        whole = len(index["ids"]) == len(index["steps"]) and isinstance(index["failed"], dict)
        shape = (sum(index["steps"]), vocabulary_size)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, LookupError, TypeError):
        return None
    return (index, all_sv) if whole and all_sv.shape == shape and all_sv.dtype == np.float32 else None


def _fill(folder: Path, model: AcousticModel, manifest: Manifest, progress: Callable[[float], None]) -> None:
    """Compute the log-probabilities in a folder of this process; the first process that is done gives it its name."""
    size = model.tokenizer.vocabulary_size
    with part_folder(folder) as part:
        _compute(part, model, manifest, progress)
        with locked(folder.parent):  # or one process could remove as damaged what another has just put there
            if _load(folder, size) is None:
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)


def _compute(part: Path, model: AcousticModel, manifest: Manifest, progress: Callable[[float], None]) -> None:
    """Write the index, and all log-probabilities behind a numpy header."""
    ids: list[str] = []
    steps: list[int] = []
    failed: dict[str, str] = {}
    shape = (0, model.tokenizer.vocabulary_size)
    with (part / "log_probs.npy").open("wb") as file:
        _write_header(file, shape)
        for utterance, log_probs_sv in of_manifest(model, manifest):
            if isinstance(log_probs_sv, DataError):
                failed[utterance.id] = str(log_probs_sv)
            else:
                ids.append(utterance.id)
                steps.append(len(log_probs_sv))
                file.write(np.ascontiguousarray(log_probs_sv, np.float32).tobytes())
            progress(utterance.duration_s)

        # Only now the number of steps is known; numpy leaves room for it in the header.
        file.seek(0)
        _write_header(file, (sum(steps), shape[1]))
    write_json(part / "index.json", {"ids": ids, "steps": steps, "failed": failed})


def _write_header(file: IO[bytes], shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _key(model: AcousticModel, manifest: Manifest) -> str:
    """Return a name for everything that the log-probabilities depend on."""
    digest = hashlib.sha256(__version__.encode())  # another version may compute other features
    digest.update(f"no speech above {NO_SPEECH_THRESHOLD}".encode())
    configs = (model.audio, model.text, model.extractor.cfg, model.network.cfg)
    digest.update("\n".join(config.model_dump_json() for config in configs).encode())
    # Another implementation of the network rounds differently, and more so on another device or in another precision.
    digest.update(model.network.fingerprint().encode())
    for name, values in model.extractor.statistics().items():
        digest.update(name.encode())
        digest.update(values.tobytes())

    for utterance in manifest:
        path = manifest.audio_path(utterance)
        file = shards.container(path)
        try:
            status = file.stat()
            # A permission that was given later changes neither size nor time.
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, os.access(file, os.R_OK))
        except OSError:
            stamp = (-1, 0, 0, False)
        part = (utterance.offset_s, utterance.duration_s, utterance.channel)
        digest.update(repr((utterance.id, str(path), *part, stamp)).encode())
    return digest.hexdigest()[:24]
