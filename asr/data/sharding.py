"""Packing the audio of a manifest into tar files: ``write_shards(manifest, out) -> Sharded``.

The layout is WebDataset's: ``key.flac`` and beside it ``key.json`` with the manifest's row. Audio is
copied byte by byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data import shards
from asr.data.manifest import Manifest, Utterance
from asr.data.prepared import Header
from asr.errors import ConfigError, DataError, os_reason
from asr.files import open_atomic

MIB = 2**20
#: a member's header, and its content filled up to blocks
_BLOCK = 512


@dataclass(frozen=True)
class Sharded:
    """What was written: the new manifest, its tar files, and how many of these were there already."""

    manifest: Path
    shards: list[Path]
    kept: int
    files: int


@dataclass(frozen=True)
class _Item:
    """One audio file: where it is, what it is called in the tar file, and the rows that it is the audio of."""

    path: Path
    key: str
    suffix: str
    num_bytes: int
    mtime_ns: int
    rows: tuple[Utterance, ...]

    @property
    def member(self) -> str:
        return self.key + self.suffix

    @property
    def about(self) -> bytes:
        rows = [{k: v for k, v in row.to_json().items() if k != "audio_path"} for row in self.rows]
        # the rows of one long recording are together
        return json.dumps(rows[0] if len(rows) == 1 else {"utterances": rows}, ensure_ascii=False).encode()

    @property
    def in_tar(self) -> int:
        return sum(_BLOCK + -(-n // _BLOCK) * _BLOCK for n in (self.num_bytes, len(self.about)))


def write_shards(
    manifest: Manifest, out: Path, shard_mib: int = 512, advance: Callable[[], None] = lambda: None
) -> Sharded:
    """Writes tar files of about ``shard_mib`` under ``out``/shards, then ``out``/<name>.jsonl with their members.

    A tar file has its name only when it is whole; one that is there from an earlier call, of the same audio and rows,
    is kept. ``prepared.json`` and the tokenizer come along; of a folder that is there already, the other splits stay.

    Args:
        advance: called after each tar file.

    Raises:
        ConfigError: ``out`` is the manifest's own folder, or holds data with another text normalization or tokenizer,
            or another manifest of this name.
        DataError: an audio file is missing, or a tar file cannot be written; run again, it goes on where it was.
    """
    if out.resolve() == manifest.path.parent.resolve():
        raise ConfigError(f"--out {out} is the manifest's own folder, and its manifest would be written over")
    header, there = headers.read(manifest.path.parent), headers.read(out)
    stem = manifest.path.name.removesuffix(".jsonl")
    path = out / f"{stem}.jsonl"
    _check_alike(manifest.path.parent, header, out, there)
    _check_same(manifest, header, path, there)
    parts = list(_cut(_items(manifest), shard_mib * MIB))
    tars, kept, places = [], 0, dict[str, str]()
    for number, items in enumerate(parts):
        tar = out / "shards" / f"{stem}-{number:06d}.tar"
        try:
            kept += _write(tar, items)
        except OSError as error:
            raise DataError(
                f"cannot write: {os_reason(error)}; run the same command again, whole shards are kept", tar
            ) from error
        places |= {row.id: f"shards/{tar.name}#{item.member}" for item in items for row in item.rows}
        tars.append(tar)
        advance()
    _remove_more(out / "shards", stem, len(parts))
    manifests.write(path, (replace(row, audio_path=places[row.id]) for row in manifest))
    if (tokenizer := headers.tokenizer_path(manifest.path.parent, header)) is not None:
        shutil.copyfile(tokenizer, out / tokenizer.name)
    if header is not None:
        own = {name: facts for name, facts in header.splits.items() if name == stem}
        headers.write(out, replace(header, splits={**(there.splits if there else {}), **own}))
    return Sharded(path, tars, kept, sum(map(len, parts)))


def _check_same(manifest: Manifest, header: Header | None, path: Path, there: Header | None) -> None:
    """Of two corpora in one folder, each with a ``train.jsonl``, the second would take the place of the first."""
    if not path.exists():
        return
    recipes = [one.recipe for one in (there, header) if one is not None]
    if len(set(recipes)) > 1 or {u.id for u in manifests.read(path)} != {u.id for u in manifest}:
        raise ConfigError(f"{path} is of other utterances than {manifest.path}; choose another --out, or remove it")


def _check_alike(folder: Path, header: Header | None, out: Path, there: Header | None) -> None:
    """One header describes all manifests of ``out``: they must have gone through the same."""
    places = [headers.tokenizer_path(out, there), headers.tokenizer_path(folder, header)]
    if there is None and places[0] is None and not any(out.glob("*.jsonl")):
        return
    profiles = [one.normalization if one else "none" for one in (there, header)]
    if profiles[0] != profiles[1]:
        raise ConfigError(
            f"--out {out} holds data prepared with text normalization {profiles[0]}, these have {profiles[1]}; "
            "choose another"
        )
    try:
        tokenizers = [place.read_bytes() if place is not None else b"" for place in places]
    except OSError as error:
        raise DataError(f"the tokenizer that the data speak of cannot be read: {os_reason(error)}", out) from error
    if tokenizers[0] != tokenizers[1]:
        raise ConfigError(f"--out {out} holds data with another tokenizer than these; choose another")


def _items(manifest: Manifest) -> list[_Item]:
    rows_of: dict[str, list[Utterance]] = {}
    for row in manifest:
        rows_of.setdefault(row.audio_path, []).append(row)
    items, used = [], set()
    last: dict[str, int] = {}  # the number to go on from, else many ids of one key take for ever
    for rows in rows_of.values():
        path = manifest.audio_path(rows[0])
        try:
            num_bytes, mtime_ns = shards.num_bytes(path), shards.container(path).stat().st_mtime_ns
        except (OSError, ValueError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else str(error)
            raise DataError(f"utt '{rows[0].id}': cannot read the audio: {reason}", path) from error
        key = base = _key(rows[0].id)
        number = last.get(base, 1)
        while key in used:
            number += 1
            key = f"{base}-{number}"
        used.add(key)
        last[base] = number
        name = shards.split(path)[1] if shards.is_member(path) else path.name
        items.append(_Item(path, key, PurePosixPath(name).suffix.lower(), num_bytes, mtime_ns, tuple(rows)))
    return items


def _key(id_: str) -> str:
    """An id as WebDataset takes it: what follows the first dot would be the kind of the member.

    >>> _key("a/b.c d")
    'a_b_c_d'
    """
    return re.sub(r"[^\w-]", "_", id_, flags=re.ASCII)


def _cut(items: list[_Item], limit: int) -> Iterator[list[_Item]]:
    part: list[_Item] = []
    size = 0
    for item in items:
        if part and size + item.in_tar > limit:
            yield part
            part, size = [], 0
        part.append(item)
        size += item.in_tar
    if part:
        yield part


def _write(tar: Path, items: list[_Item]) -> bool:
    """Writes one tar file; true when it was there already."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.member, item.num_bytes, item.mtime_ns, str(item.path), item.about)).encode())
    source = digest.hexdigest()
    if tar.exists():
        status = tar.stat()
        index = shards.read_index(tar, status.st_size, status.st_mtime_ns)
        if index is not None and index.get("source") == source:
            return True
    with open_atomic(tar, "wb") as out, tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as file:
        for item in items:
            with shards.open_bytes(item.path) as audio:
                _add(file, item.member, item.num_bytes, audio)
            _add(file, item.key + ".json", len(item.about), io.BytesIO(item.about))
    status = tar.stat()
    shards.write_index(tar, status.st_size, status.st_mtime_ns, shards.scan(tar), source=source)
    return False


def _add(file: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the same audio gives the same bytes
    info.size, info.mode = size, 0o644
    file.addfile(info, content)


def _remove_more(folder: Path, stem: str, count: int) -> None:
    """Removes tar files of an earlier call that had more of them; no other file."""
    for tar in folder.glob(f"{stem}-??????.tar"):
        number = tar.name[len(stem) + 1 : -4]
        if number.isdigit() and int(number) >= count:
            status = tar.stat()
            index = shards.read_index(tar, status.st_size, status.st_mtime_ns)
            if index is not None and "source" in index:
                tar.unlink()
                shards.index_path(tar).unlink()
