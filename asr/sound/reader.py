"""Open sound files of any kind, in one way for all code that reads audio.

``Reader`` finds out the kind of a file, the place of the sound in it, and its decoder: libsndfile, with the parts of
the file that it should see, or ffmpeg. Axes: n samples, c channels.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import tempfile
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from asr.data import shards
from asr.errors import DataError, os_reason
from asr.sound import ffmpeg, mpeg, ogg
from asr.sound.containers import MPEG_CODES, find_layout
from asr.sound.decoders import Chain, Decoder, Mpeg, Open, Sndfile, reason_of
from asr.sound.recording import LOWEST_HZ, SLACK_S, Recording, Wave, one_channel
from asr.sound.splice import Piece, Spliced

__all__ = ["LOWEST_HZ", "SLACK_S", "SUFFIXES", "Reader", "Recording", "Wave", "check_present", "one_channel"]

#: of files that are read: by libsndfile, and by ffmpeg
SUFFIXES = ffmpeg.SUFFIXES | frozenset(
    f".{name}"
    for name in (
        *("aif", "aifc", "aiff", "au", "caf", "flac", "mp2", "mp3", "mpga", "nist", "oga", "ogg", "opus", "rf64"),
        *("snd", "sph", "voc", "w64", "wav", "wave"),
    )
)
#: bytes of the file's beginning that show its kind and the place of its samples
_HEAD = 4096
#: files up to this size are read at once for a scan of every byte; larger ones are mapped
_READ_WHOLE = 1 << 26
#: number of MP3 files whose frames are cached, since many parts of one recording may be read: 2.4 MB per hour
_KEPT = 64
#: Ogg: seconds that are decoded before an offset
_RUN_IN_S = 1.0
_MPEG_SUFFIXES = (".mp3", ".mp2", ".mp1", ".mpga")
_HEADERLESS = (".raw", ".pcm", ".s16", ".s16le", ".sw", ".ulaw", ".alaw", ".ul", ".al", ".f32", ".f32le")


class Reader(Recording):
    """Open a sound file; a context manager. ``format``: libsndfile's name of its format, or ``ffmpeg``.

    Args:
        source: a path (also of a member of a tar file, ``asr.data.shards``), or the content of a file.
        where: its name in errors; default: the path.

    Raises:
        DataError: the file is missing, empty or not audio, or it needs ffmpeg, which is not installed.
    """

    def __init__(self, source: Path | bytes, where: str | Path = "") -> None:
        self._where: str | Path = where or (source if isinstance(source, Path) else "bytes")
        self._source = source
        self._closing = ExitStack()
        self.format, self.truncated, self.notes = "", "", ()
        try:
            super().__init__(self._opened(), self._where, self.truncated, self.notes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and end ffmpeg; further calls do nothing."""
        self._closing.close()

    def _opened(self) -> Decoder:
        size = check_present(self._source, self._where)
        suffix = Path(self._where).suffix.lower()
        program = ffmpeg.available() if suffix in ffmpeg.SUFFIXES else None
        why = ""
        if program is None:
            soundfile_errors = Sndfile.errors()
            try:
                return self._native(size, suffix)
            except soundfile_errors as error:
                why = reason_of(error)
            program = ffmpeg.available()
        if suffix in _HEADERLESS:
            raise DataError(
                "samples without a header: their rate and format are not known; make a WAV of them, for example "
                f"sox -t raw -r 16000 -e signed -b 16 -c 1 {Path(self._where).name} OUT.wav", self._where,
            )  # fmt: skip
        if program is None and suffix in ffmpeg.SUFFIXES:
            raise DataError(f"{suffix} is read through ffmpeg, which is not on the PATH; {ffmpeg.INSTALL}", self._where)
        if program is None:
            readable = "WAV, FLAC, SPHERE, MP3 and Ogg are, most others where ffmpeg is installed (it is not)"
            raise DataError(f"not audio that can be read ({why}); {readable}", self._where)
        decoder = ffmpeg.Decoder(program, self._on_disk(), self._where)
        self._closing.callback(decoder.close)
        self.format, self.notes = "ffmpeg", ("decoded by ffmpeg",)
        return decoder

    def _native(self, size: int, suffix: str) -> Decoder:
        """Return the decoder by libsndfile, with the parts of the file that it should see."""
        file: BinaryIO
        if isinstance(self._source, bytes):
            file = io.BytesIO(self._source)
        else:
            try:
                file = shards.open_bytes(self._source)
            except OSError as error:
                raise DataError(f"cannot read the audio: {os_reason(error)}", self._where) from error
        self._closing.enter_context(file)
        head = file.read(_HEAD)
        start = 0
        if (tagged := mpeg.id3_bytes(head)) and tagged < size:
            start = tagged
            file.seek(start)
            head = file.read(_HEAD)
        if head[:4] == b"OggS":
            return self._ogg(file, start, size)
        layout = find_layout(file, size, head) if not start else None
        if layout is not None:
            self.truncated = layout.cut
            self.notes = (layout.more,) if layout.more else ()
            if layout.code in MPEG_CODES:
                return self._mpeg(file, layout.start, layout.start + layout.num_bytes) or self._plain()
            return self._sndfile(self._spliced(file, layout.pieces(file)) if layout.patches else self._by_name())
        if head[:4] != b"fLaC" and (
            start or suffix in _MPEG_SUFFIXES or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
        ):
            found = self._mpeg(file, start, size)
            if found is not None:
                return found
        if start:
            return self._sndfile(self._spliced(file, [(start, size - start)]))
        return self._plain()

    def _plain(self) -> Decoder:
        return self._sndfile(self._by_name())

    def _by_name(self) -> Open:
        """Return the name of a file, for libsndfile to open; of a tar member, or of content, an open file."""
        source = self._source
        if isinstance(source, bytes):
            return lambda: io.BytesIO(source)
        if shards.is_member(source):
            return lambda: shards.open_bytes(source)
        if source.suffix.lower() in _HEADERLESS:  # by the name it would take no header for one
            return lambda: io.BytesIO(source.read_bytes())
        return lambda: os.fsencode(source) if os.name == "posix" else str(source)

    @staticmethod
    def _spliced(file: BinaryIO, pieces: list[Piece]) -> Open:
        return lambda: Spliced(file, pieces)

    def _sndfile(self, opener: Open, run_in_s: float = 0.0) -> Sndfile:
        decoder = Sndfile(opener, run_in_s)
        self._closing.callback(decoder.close)
        self.format = decoder.format
        return decoder

    def _ogg(self, file: BinaryIO, start: int, size: int) -> Decoder:
        links, self.truncated = ogg.read_links(file, start, size)
        if len(links) == 1 and not start and links[0][1] == size:
            return self._sndfile(self._by_name(), _RUN_IN_S)
        decoders: list[Decoder] = []
        for link in links:
            try:
                decoders.append(self._sndfile(self._spliced(file, [link]), _RUN_IN_S))
            except Sndfile.errors() as error:
                if not decoders:
                    raise
                which = f"stream {len(decoders) + 1} of {len(links)}"
                self.truncated = f"truncated or damaged: {which} cannot be decoded ({reason_of(error)}); fetch it again"
                break
        return Chain(decoders)

    def _mpeg(self, file: BinaryIO, start: int, stop: int) -> Decoder | None:
        """Return a decoder of the MP3 frames; None: there are none."""
        runs, cut = self._frames(file, start, stop)
        if not runs:
            return None
        self.format, self.truncated = "MP3", self.truncated or cut
        decoders = [Mpeg(run, file) for run in runs]
        for decoder in decoders:
            self._closing.callback(decoder.close)
        return Chain(decoders)

    def _frames(self, file: BinaryIO, start: int, stop: int) -> mpeg.Scanned:
        if isinstance(self._source, bytes):
            return mpeg.scan(self._source, start, stop)
        if shards.is_member(self._source):
            file.seek(0)
            return mpeg.scan(file.read(), start, stop)
        status = self._source.stat()
        return _scanned(str(self._source), status.st_size, status.st_mtime_ns, start, stop)

    def _on_disk(self) -> Path:
        """Return a name under which ffmpeg can open the file."""
        if isinstance(self._source, Path) and not shards.is_member(self._source):
            return self._source
        content = self._source
        if isinstance(content, Path):
            with shards.open_bytes(content) as file:
                content = file.read()
        handle, name = tempfile.mkstemp(prefix="asr-")
        os.close(handle)
        self._closing.callback(Path(name).unlink, missing_ok=True)
        Path(name).write_bytes(content)
        return Path(name)


@lru_cache(_KEPT)
def _scanned(path: str, size: int, mtime_ns: int, start: int, stop: int) -> mpeg.Scanned:
    """Return the frames of a file of that size and time, which are part of the key of the cache."""
    with Path(path).open("rb") as file:
        if size <= _READ_WHOLE:
            return mpeg.scan(file.read(), start, stop)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return mpeg.scan(data, start, stop)


def check_present(source: Path | bytes, where: str | Path) -> int:
    """Return the size of an audio file.

    Raises:
        DataError: it is missing, empty, a folder, a pipe, or unreadable.
    """
    if isinstance(source, bytes):
        if not source:
            raise DataError("is empty (0 bytes)", where)
        return len(source)
    if shards.is_member(source):
        if not (size := shards.num_bytes(source)):
            raise DataError("the file is empty (0 bytes)", where)
        return size
    try:
        size = source.stat().st_size
    except OSError as error:
        if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(source)):
            raise DataError(_of_address(address[1].lower(), str(source)), where) from error
        raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error
    except ValueError as error:  # a NUL or half a surrogate pair: no file can have that name
        raise DataError(f"cannot read the audio: the name is impossible ({error})", where) from error
    if source.is_dir():
        raise DataError("is a folder, expected an audio file", where)
    if not source.is_file():
        raise DataError("is a pipe or a device, expected an audio file", where)
    if size == 0:
        raise DataError("the file is empty (0 bytes)", where)
    return size


def _of_address(scheme: str, name: str) -> str:
    if scheme == "file":
        return "is an address, expected a file's name: leave file:// away"
    address = re.sub(r":/+", "://", name, count=1)  # a path has lost a slash
    return f"is an address, expected a file: nothing is downloaded here; fetch it first (curl -LO {address})"
