"""Decode audio that libsndfile does not read (M4A, MP4, WebM, …) by the ``ffmpeg`` program, through a pipe."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from asr.errors import DataError, os_reason

#: suffixes whose files go to ffmpeg at once
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "aac", "ac3", "amr", "ape", "asf", "avi", "flv", "m2ts", "m4a", "m4b", "m4v", "mka", "mkv"),
        *("mov", "mp4", "mpeg", "mpg", "mts", "ogv", "spx", "webm", "wma", "wmv", "wv"),
    )
)
#: number of bytes of ffmpeg's messages that are read from their beginning, and as many from their end
_MUCH = 500_000
INSTALL = "install ffmpeg (apt install ffmpeg, brew install ffmpeg, winget install ffmpeg), or convert the file to WAV"


def available() -> str | None:
    """Return the path of the program, if there is one."""
    return shutil.which("ffmpeg")


class Decoder:
    """Decode the first audio track of a file, at its own rate and with all channels; a subprocess runs until ``close``.

    ``duration_s`` is the container's length (about 0.1 s of slack), None if it states none; ``damage`` gives at the end
    the reason why audio is missing.

    Raises:
        DataError: ffmpeg cannot read the file, or it has no sound; ``where`` is named.
    """

    frames: int | None = None

    def __init__(self, program: str, path: Path, where: str | Path) -> None:
        self._program, self._where, self._path = program, where, path
        self.damage = ""
        self._at = 0
        self._start()

    def _start(self) -> None:
        # Its messages go to a file, which unlike a pipe needs no reader; opened again for reading, since a handle that
        # both sides share has one position: reading would move the place where ffmpeg writes on.
        self._folder = tempfile.TemporaryDirectory(prefix="asr-ffmpeg-")
        self._errors = Path(self._folder.name, "stderr")
        try:
            with self._errors.open("wb") as errors:
                self._process = self._started(self._program, self._path, errors)
        except OSError as error:
            self._folder.cleanup()
            raise DataError(f"ffmpeg cannot be started: {os_reason(error)}", self._where) from error
        assert self._process.stdout is not None
        self._pipe: IO[bytes] = self._process.stdout
        try:
            self.rate_hz, self.channels = self._header()
            self.duration_s = _duration_s(self._said())
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _started(program: str, path: Path, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # file: and the whitelist: a name or a playlist must not make it open anything else.
            [program, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info",
             "-protocol_whitelist", "file", "-i", f"file:{path}", "-map", "0:a:0",
             # Gaps become silence, so that times stay those of the video.
             "-af", "aresample=async=1:first_pts=0", "-c:a", "pcm_f32le", "-f", "wav",
             "-protocol_whitelist", "pipe", "pipe:1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip

    def seek(self, frame: int) -> int:
        """Go to a sample by decoding everything before it, as seeking is not exact in every format."""
        if frame < self._at:
            self.close()
            self._at, self.damage = 0, ""
            self._start()
        while self._at < frame and len(self.read(min(frame - self._at, 10 * self.rate_hz))):
            pass
        return self._at

    def read(self, frames: int) -> npt.NDArray[np.float32]:
        """Return the next frames, fewer only at the end. Shapes: (n, channels).

        Raises:
            DataError: there are no samples at all, because the file is damaged or of another kind.
        """
        width = 4 * self.channels
        content = self._pipe.read(frames * width)
        whole = len(content) // width * width
        self._at += whole // width
        if len(content) < frames * width:
            self._check_end()
        return np.frombuffer(content[:whole], "<f4").astype(np.float32, copy=False).reshape(-1, self.channels)

    def close(self) -> None:
        self._process.kill()
        self._pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def _header(self) -> tuple[int, int]:
        """Read rate and channels from the WAV header, up to the first sample."""
        rate_hz = channels = 0
        if len(self._pipe.read(12)) == 12:
            while len(head := self._pipe.read(8)) == 8:
                name, num_bytes = struct.unpack("<4sI", head)
                if name == b"data":
                    break
                body = self._pipe.read(num_bytes + num_bytes % 2)
                if name == b"fmt " and len(body) >= 8:
                    channels, rate_hz = struct.unpack_from("<HI", body, 2)
        if not rate_hz or not channels:
            self._check_end()
            raise DataError(self.damage or "ffmpeg finds nothing in it that can be decoded", self._where)
        return rate_hz, channels

    def _said(self) -> str:
        # A damaged file can give one line per packet: the first lines say what is wrong, the last ones how it ended.
        with self._errors.open("rb") as errors:
            said = errors.read(_MUCH)
            if left := max(0, self._errors.stat().st_size - errors.tell()):
                errors.seek(max(0, left - _MUCH), os.SEEK_CUR)
                said += b"\n" + errors.read(_MUCH)
        return said.decode("utf-8", "replace")

    def _complaints(self, said: str) -> str:
        """Return ffmpeg's error messages without the path and tags, whose content is arbitrary."""
        lines = [line for line in said.splitlines() if re.search(r"\[(warning|error|fatal)\]", line)]
        return "\n".join(lines).replace(str(self._path), "")

    def _check_end(self) -> None:
        """Set ``damage`` if ffmpeg ended before the file should; raise an error if it gave nothing."""
        status = self._process.wait()
        said = self._said()
        wrong = self._complaints(said)
        if "matches no streams" in wrong or "does not contain any stream" in wrong:
            raise DataError("holds no sound: ffmpeg finds no audio track in it (a video without sound?)", self._where)
        if "misdetection possible" in wrong:
            raise DataError("not audio that can be read: ffmpeg only guesses what it is", self._where)
        if "partial file" in wrong or "ended prematurely" in wrong:
            self.damage = "truncated: ffmpeg meets the end of the file too early; fetch it again"
        elif status and not self._at:
            raise DataError(f"ffmpeg cannot decode it ({_reason(said)})", self._where)
        elif status:
            self.damage = f"truncated or damaged: ffmpeg cannot decode all of it ({_reason(said)}); fetch it again"


def _duration_s(said: str) -> float | None:
    found = re.search(r"^ *(?:\[[^]]*\] *)*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", said, re.MULTILINE)
    return None if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _reason(said: str) -> str:
    """Return the first error that ffmpeg names, which causes the others; else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "[error]" in line or "[fatal]" in line]
    line = errors[0] if errors else lines[-1] if lines else "it says nothing"
    return re.sub(r"^(\[[^]]*\] )+", "", line).rstrip(".")
