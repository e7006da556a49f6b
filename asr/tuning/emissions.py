"""Log-probabilities of a manifest under a model, kept on disk: one forward pass for any number of decodings.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr import __version__
from asr.data import shards
from asr.data.manifest import Manifest, Utterance
from asr.decode.types import LogProbs
from asr.errors import AsrError, DataError, os_reason
from asr.files import write_json
from asr.infer import of_manifest
from asr.model.checkpoint import AcousticModel, model_tensors
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
    """The log-probabilities of a manifest, from ``cache`` if this model has seen this audio before.

    Kept as float32, mapped and not read: they are exactly what the model gave, and memory stays free. They are found
    again by the weights, the settings of features and audio, the audio files' sizes and times, and the version of this
    package; texts do not matter. What is damaged is computed anew.

    Raises:
        DataError: not one utterance can be used.
        AsrError: the cache cannot be read or written.
    """
    folder = cache / _key(model, manifest)
    doing = "read"
    try:
        kept = _kept(folder, model.tokenizer.vocabulary_size)
        found = kept is not None
        if kept is None:
            doing = "write"
            _fill(folder, model, manifest, progress)
            kept = _kept(folder, model.tokenizer.vocabulary_size)
            assert kept is not None  # just written
    except OSError as error:
        raise AsrError(f"{folder}: cannot {doing}: {os_reason(error)}; choose another place with --cache") from error
    index, all_sv = kept
    ends = np.cumsum(index["steps"]).tolist()
    spans = dict(zip(index["ids"], zip([0, *ends], ends, strict=False), strict=True))
    rows = [u for u in manifest if u.id in spans]
    if not rows:
        raise DataError(f"no utterance could be read; the first: {next(iter(index['failed'].values()))}", manifest.path)
    log_probs = [np.asarray(all_sv[slice(*spans[u.id])]) for u in rows]
    return Emissions(rows, log_probs, index["failed"], folder, found)


def _kept(folder: Path, vocabulary_size: int) -> tuple[dict[str, Any], LogProbs] | None:
    """The index and all rows, mapped; None where there are none, or they are damaged: then they are made again."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        all_sv = np.load(folder / "log_probs.npy", mmap_mode="r")
        whole = len(index["ids"]) == len(index["steps"]) and isinstance(index["failed"], dict)
        shape = (sum(index["steps"]), vocabulary_size)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, LookupError, TypeError):
        return None
    return (index, all_sv) if whole and all_sv.shape == shape and all_sv.dtype == np.float32 else None


def _fill(folder: Path, model: AcousticModel, manifest: Manifest, progress: Callable[[float], None]) -> None:
    """Each process fills a folder of its own; the first that is done gives it its name."""
    size = model.tokenizer.vocabulary_size
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(".part", f"{folder.name}.", folder.parent))
    try:
        _compute(part, model, manifest, progress)
        if _kept(folder, size) is None:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                part.rename(folder)
            except OSError:  # another process was faster by a moment
                if _kept(folder, size) is None:
                    raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _compute(part: Path, model: AcousticModel, manifest: Manifest, progress: Callable[[float], None]) -> None:
    ids: list[str] = []
    steps: list[int] = []
    failed: dict[str, str] = {}
    with (part / "log_probs.raw").open("wb") as file:
        for utterance, one_sv in of_manifest(model, manifest):
            if isinstance(one_sv, DataError):
                failed[utterance.id] = str(one_sv)
            else:
                ids.append(utterance.id)
                steps.append(len(one_sv))
                file.write(np.ascontiguousarray(one_sv, np.float32).tobytes())
            progress(utterance.duration_s)
    shape = (sum(steps), model.tokenizer.vocabulary_size)
    _as_npy(part / "log_probs.raw", part / "log_probs.npy", shape)
    write_json(part / "index.json", {"ids": ids, "steps": steps, "failed": failed})


def _as_npy(raw: Path, path: Path, shape: tuple[int, int]) -> None:
    """The same numbers behind numpy's header, which needs to know how many there are."""
    if not shape[0]:
        np.save(path, np.zeros(shape, np.float32))
    else:
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        out[:] = np.memmap(raw, np.float32, mode="r", shape=shape)
        out.flush()
    raw.unlink()


def _key(model: AcousticModel, manifest: Manifest) -> str:
    digest = hashlib.sha256(__version__.encode())  # another version may compute other features
    digest.update(f"no speech above {NO_SPEECH_THRESHOLD}".encode())
    parts = (model.audio, model.text, model.extractor.cfg, model.network.cfg)
    digest.update("\n".join(part.model_dump_json() for part in parts).encode())
    # a twin of the network rounds otherwise, and more so in another precision
    digest.update(f"{type(model.network).__name__} {getattr(model.network, 'precision', '')}".encode())
    for name, tensor in sorted(model_tensors(model).items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    for utterance in manifest:
        path = manifest.audio_path(utterance)
        try:
            status = shards.container(path).stat()
            # a permission that was given later changes neither size nor time
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, os.access(shards.container(path), os.R_OK))
        except OSError:
            stamp = (-1, 0, 0, False)
        part = (utterance.offset_s, utterance.duration_s, utterance.channel)
        digest.update(repr((utterance.id, str(path), *part, stamp)).encode())
    return digest.hexdigest()[:24]
