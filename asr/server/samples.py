"""Turn the bytes that sockets bring into samples: 16-bit and float PCM, and the companded ones of telephones.

Axes: n samples, v values of a byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.sound.recording import Wave


def _mulaw_values() -> Wave:
    """Return the sample of each byte in G.711's mu-law. Shapes: (v,)."""
    code_v = ~np.arange(256, dtype=np.uint8)
    size_v = (((code_v & 0x0F).astype(np.int32) << 3) + 0x84 << ((code_v & 0x70) >> 4)) - 0x84
    return _signed(size_v, (code_v & 0x80) != 0)


def _alaw_values() -> Wave:
    """Return the sample of each byte in G.711's A-law. Shapes: (v,)."""
    code_v = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent_v = (code_v & 0x70).astype(np.int32) >> 4
    step_v = ((code_v & 0x0F).astype(np.int32) << 4) + 8
    size_v = np.where(exponent_v > 0, step_v + 0x100 << np.maximum(exponent_v - 1, 0), step_v)
    return _signed(size_v, (code_v & 0x80) == 0)


def _signed(size_v: npt.NDArray[np.int32], negative_v: npt.NDArray[np.bool_]) -> Wave:
    return (np.where(negative_v, -size_v, size_v) / 32768).astype(np.float32)


#: encodings by the names that Deepgram gives them: the bytes of a sample
ENCODINGS = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}
_COMPANDED = {"mulaw": _mulaw_values, "alaw": _alaw_values}


class Samples:
    """Decode one stream of bytes, which may be cut anywhere, also inside a sample."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._size = ENCODINGS[encoding]
        self._rest = b""
        self._values_v = _COMPANDED[encoding]() if encoding in _COMPANDED else None

    def feed(self, content: bytes) -> Wave:
        """Return the samples that are whole now, float32 in [-1, 1]. Shapes: (n,)."""
        content = self._rest + content
        whole = len(content) - len(content) % self._size
        self._rest = content[whole:]
        if self._values_v is not None:
            companded_n: Wave = self._values_v[np.frombuffer(content, np.uint8)]
            return companded_n
        if self._encoding == "linear32":
            # Anything may come; the network takes numbers only.
            clipped_n: Wave = np.clip(np.nan_to_num(np.frombuffer(content[:whole], "<f4")), -1, 1).astype(np.float32)
            return clipped_n
        pcm_n: Wave = np.frombuffer(content[:whole], "<i2").astype(np.float32) / np.float32(32768)
        return pcm_n
