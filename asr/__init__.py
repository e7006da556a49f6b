"""End-to-end speech recognition with CTC: from a corpus archive to a word error rate.

``from asr import Recognizer`` is the public face for transcription; every other module is named for its stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recognizer", "__version__"]

if TYPE_CHECKING:
    from asr.transcribe import Recognizer


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that ``import asr`` and ``asr --help`` load no torch.
    if name == "Recognizer":
        from asr.transcribe import Recognizer

        return Recognizer

    raise AttributeError(f"module 'asr' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
