"""The archive of a NeMo model: a tar file, plain or gzip, that is read where it is. Nothing of it is run or extracted.

Source: NeMo, ``nemo/core/connectors/save_restore_connector.py``.
"""

from __future__ import annotations

import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from torch import Tensor

from asr.config.documents import read_yaml
from asr.data.tar import Header, members
from asr.errors import CheckpointError, DataError, os_reason
from asr.files import gunzip, open_regular
from asr.limits import NEMO_CONFIG, NEMO_MEMBERS, SMALL_FILE
from asr.model.foreign import kind_of_file
from asr.model.pickled import read_pickle_in

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_GZIP = b"\x1f\x8b"
#: what a damaged archive raises
_DAMAGE = (tarfile.TarError, EOFError, ValueError, RecursionError, OSError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class NemoArchive:
    """An open archive: its regular files by name."""

    path: Path
    tar: tarfile.TarFile
    files: Mapping[str, tarfile.TarInfo]

    def config(self) -> dict[str, Any]:
        """Read the model's config: plain values only, no tags that name objects.

        Raises:
            CheckpointError: it is missing or no YAML.
        """
        text = self.read(CONFIG, NEMO_CONFIG)
        try:
            data = read_yaml(text.decode("utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(getattr(error, "problem", None) or error).split())[:160]
            raise CheckpointError(f"its {CONFIG} is not valid YAML ({reason})", self.path) from error
        if not isinstance(data, dict):
            raise CheckpointError(f"its {CONFIG} must be a mapping, got {type(data).__name__}", self.path)
        return data

    def read(self, name: str, limit: int = SMALL_FILE) -> bytes:
        """Return the content of a file.

        Raises:
            CheckpointError: it is missing, or has more than ``limit`` bytes.
        """
        member = self._member(name)
        if member.size > limit:
            raise CheckpointError(f"its {name} has {member.size:,} bytes, at most {limit:,} are read", self.path)
        with self._open(member) as file:
            return file.read()

    def weights(self, device: str) -> dict[str, Tensor]:
        """Read the weights; on the device "meta" names, shapes and types without values.

        Raises:
            CheckpointError: they are missing, damaged, or ask for code.
        """
        with self._open(self._member(WEIGHTS)) as file:
            return read_pickle_in(file, self.path, device)

    def _member(self, name: str) -> tarfile.TarInfo:
        if name not in self.files:
            have = ", ".join(sorted(self.files)[:8]) or "nothing"
            raise CheckpointError(f"holds no {name}, which a model of NeMo has (it holds {have})", self.path)
        return self.files[name]

    def _open(self, member: tarfile.TarInfo) -> BinaryIO:
        file: Any = self.tar.extractfile(member)
        return file  # type: ignore[no-any-return]


@contextmanager
def open_archive(path: Path) -> Iterator[NemoArchive]:
    """Open the archive of a model.

    Raises:
        CheckpointError: it is missing, no archive, cut, or has what no model has.
    """
    try:
        with (
            open_regular(path) as raw,
            _unpacked(raw, path) as file,
            tarfile.open(path, "r:", file, tarinfo=Header) as tar,
        ):
            yield NemoArchive(path, tar, _files(tar, path))
    except DataError as error:  # which names the file
        raise CheckpointError(str(error)) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
        kind = kind_of_file(path)
        what = f"it seems to be {kind}" if kind and not kind.startswith("a NVIDIA NeMo") else str(error)[:120]
        raise CheckpointError(f"not a whole .nemo file, a tar archive ({what})", path) from error


@contextmanager
def _unpacked(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Yield the tar file: itself, or a temporary file of what gzip unpacks, since weights are read back and forth."""
    is_gzip = raw.read(len(_GZIP)) == _GZIP
    raw.seek(0)
    if not is_gzip:
        yield raw
        return
    with tempfile.TemporaryFile() as file:
        for block in gunzip(raw, path):
            file.write(block)
        file.seek(0)
        yield file


def _files(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Return the regular files of an archive by name; links and folders are no part of a model."""
    files: dict[str, tarfile.TarInfo] = {}
    for number, member in enumerate(members(tar, path), start=1):
        if number > NEMO_MEMBERS:
            raise CheckpointError(f"has more than {NEMO_MEMBERS:,} files, which no model of NeMo has", path)
        if member.isreg():
            files[member.name.removeprefix("./")] = member
    return files
