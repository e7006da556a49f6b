"""Decode audio that libsndfile does not read (M4A, MP4, WebM, …) by the ``ffmpeg`` program, through a pipe."""

from __future__ import annotations

import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from asr.errors import DataError, os_reason
from asr.limits import FFMPEG_MESSAGES, FFMPEG_PIECE, FFMPEG_QUIET_S
from asr.sound.decoders import Samples, SoundDecoder, pass_over

_NAMES = "3g2 3gp aac ac3 amr ape asf avi flv m2ts m4a m4b m4v mka mkv mov mp4 mpeg mpg mts ogv spx webm wma wmv wv"
#: suffixes whose files go to ffmpeg at once
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
INSTALL = "install ffmpeg (apt install ffmpeg, brew install ffmpeg, winget install ffmpeg), or convert the file to WAV"
#: What ffmpeg may take a file for, whatever its suffix: containers and streams that hold sound themselves. No lists of
#: other files (hls, dash, concat, imf, image2), descriptions of sessions (sdp), scripts (avisynth, lavfi) or devices.
#: A name that a build of ffmpeg does not have does no harm.
_DEMUXERS = (
    "aa,aac,ac3,act,adx,aea,aiff,amr,amrnb,amrwb,ape,aptx,aptx_hd,asf,asf_o,ast,au,avi,bit,caf,codec2,daud,dsf,dss,dts,"
    "dtshd,dv,eac3,flac,flv,g722,g723_1,g729,gsm,gxf,iff,ilbc,ircam,loas,matroska,mlp,mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,"
    "mxf,nistsphere,nut,ogg,oma,pvf,qcp,rm,rso,sbc,shn,sln,sox,spdif,swf,tak,truehd,tta,voc,w64,wav,wtv,wv,wve,xwma"
)
#: The protocols are limited too: no name may make ffmpeg open anything but the file. (MP4 files can name others; ffmpeg
#: follows these only with -enable_drefs.) ``aresample`` fills gaps with silence, so that times stay those of the video.
_OPTIONS = (
    "-nostdin -hide_banner -nostats -loglevel level+info "
    f"-max_alloc {FFMPEG_PIECE} -protocol_whitelist file -format_whitelist {_DEMUXERS}"
)
_OUTPUT = (
    "-map 0:a:0 -vn -sn -dn -af aresample=async=1:first_pts=0 -c:a pcm_f32le -f wav -protocol_whitelist pipe pipe:1"
)


def available() -> str | None:
    """Return the path of the program, if there is one."""
    return shutil.which("ffmpeg")


class FfmpegDecoder(SoundDecoder):
    """Decode the first audio track of a file, at its own rate and with all channels; a subprocess runs until ``close``.

    Raises:
        DataError: ffmpeg cannot read the file, or it has no sound; ``where`` is named.
    """

    frames = None
    format = "ffmpeg"
    notes = ("decoded by ffmpeg",)

    def __init__(self, program: str, path: Path, where: str | Path) -> None:
        self._program = program
        self._path = path
        self._where = where
        self._start()

    def _start(self) -> None:
        self._at = 0
        self.damage = ""
        # The messages go to a file, which unlike a pipe needs no reader. It is opened again for reading: a handle that
        # both sides share has one position, so that reading would move the place where ffmpeg writes on.
        self._folder = tempfile.TemporaryDirectory(prefix="asr-ffmpeg-")
        self._log = Path(self._folder.name, "stderr")
        command = [self._program, *_OPTIONS.split(), "-i", f"file:{self._path}", *_OUTPUT.split()]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
                )
        except OSError as error:
            self._folder.cleanup()
            raise DataError(f"ffmpeg cannot be started: {os_reason(error)}", self._where) from error

        assert self._process.stdout is not None
        self._pipe: IO[bytes] = self._process.stdout
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(self._pipe, select.POLLIN)
        try:
            self.rate_hz, self.channels = self._header()
        except BaseException:
            self.close()
            raise

    def seek(self, frame: int) -> int:
        """Go to a sample by decoding everything before it, as seeking is not exact in every format."""
        if frame < self._at:
            self.close()
            self._start()
        pass_over(self.read, frame - self._at)
        return self._at

    def read(self, frames: int) -> Samples:
        """Return the next frames, fewer only at the end. Shapes: (n, c).

        Raises:
            DataError: there are no samples at all, because the file is damaged or of another kind.
        """
        width = 4 * self.channels
        content = self._take(frames * width)
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
        if len(self._take(12)) == 12:
            while len(head := self._take(8)) == 8:
                name, num_bytes = struct.unpack("<4sI", head)
                if name == b"data":
                    break
                body = self._take(num_bytes + num_bytes % 2)
                if name == b"fmt " and len(body) >= 8:
                    channels, rate_hz = struct.unpack_from("<HI", body, 2)

        if not rate_hz or not channels:
            self._check_end()
            raise DataError(self.damage or "ffmpeg finds nothing in it that can be decoded", self._where)
        return rate_hz, channels

    def _take(self, count: int) -> bytearray:
        """Return the next bytes, fewer only at the end, or if there was none for ``FFMPEG_QUIET_S``."""
        content = bytearray()
        while len(content) < count:
            # Windows has no such call for a pipe: there, an ffmpeg that does not go on is waited for.
            if sys.platform != "win32" and not self._poll.poll(FFMPEG_QUIET_S * 1000):
                self._stop_quiet()
                break
            piece = self._pipe.read(count - len(content))
            if not piece:
                break
            content += piece
        return content

    def _stop_quiet(self) -> None:
        """End an ffmpeg that gives nothing."""
        self._process.kill()
        self.damage = f"truncated or damaged: ffmpeg gave no sound for {FFMPEG_QUIET_S:g} s, and was stopped"
        if not self._at:
            raise DataError(
                f"ffmpeg cannot decode it (no sound in {FFMPEG_QUIET_S:g} s, so it was stopped)", self._where
            )

    def _messages(self) -> str:
        """Return what ffmpeg says; of very much, the beginning and the end."""
        with self._log.open("rb") as log:
            content = log.read(FFMPEG_MESSAGES)
            log.seek(max(len(content), log.seek(0, os.SEEK_END) - FFMPEG_MESSAGES))
            return (content + log.read(FFMPEG_MESSAGES)).decode("utf-8", "replace")

    def _check_end(self) -> None:
        """Set ``damage`` if ffmpeg ended before the file should; raise an error if it gave nothing."""
        if self.damage:
            return
        try:
            status = self._process.wait(FFMPEG_QUIET_S)
        except subprocess.TimeoutExpired:  # it closed its output, and goes on
            self._stop_quiet()
            return
        messages = self._messages()
        # The path and the file's tags are left out, since their content is arbitrary.
        lines = [line for line in messages.splitlines() if re.search(r"\[(warning|error|fatal)\]", line)]
        wrong = "\n".join(lines).replace(str(self._path), "")

        if "ot on whitelist" in wrong and not self._at:
            problem = "a list of other files, or of a kind that is not read: give the sound file itself"
            raise DataError(f"not audio that can be read: {problem}", self._where)
        if "matches no streams" in wrong or "does not contain any stream" in wrong:
            raise DataError("holds no sound: ffmpeg finds no audio track in it (a video without sound?)", self._where)
        if "misdetection possible" in wrong:
            raise DataError("not audio that can be read: ffmpeg only guesses what it is", self._where)
        if "partial file" in wrong or "ended prematurely" in wrong:
            self.damage = "truncated: ffmpeg meets the end of the file too early; fetch it again"
        elif status and not self._at:
            raise DataError(f"ffmpeg cannot decode it ({_reason(messages)})", self._where)
        elif status:
            self.damage = f"truncated or damaged: ffmpeg cannot decode all of it ({_reason(messages)}); fetch it again"


def _reason(messages: str) -> str:
    """Return the first error that ffmpeg names, which causes the others; else its last line."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if "[error]" in line or "[fatal]" in line]
    line = (errors[:1] or lines[-1:] or ["it says nothing"])[0]
    return re.sub(r"^(\[[^]]*\] )+", "", line).rstrip(".")
