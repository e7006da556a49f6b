"""Speech from text by espeak-ng: the library of the pip wheel ``espeakng-loader``, driven through ctypes.

Source: ``espeak-ng/speak_lib.h`` (API revision 12) and ``espeak_ng.h`` of espeak-ng 1.52.0, the wheel's version.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.errors import AsrError, nearest

Wave = npt.NDArray[np.float32]

INSTALL = "pip install 'asr-ctc[quickstart]'"

# speak_lib.h: enum espeak_AUDIO_OUTPUT (espeak_Synth returns when the last callback has), the option that stops
# espeak_Initialize from calling exit(1), enum espeak_POSITION_TYPE, the text encoding, and enum espeak_PARAMETER.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE, _WORDGAP = 1, 2, 3, 4, 7

# speak_lib.h: typedef int (t_espeak_callback)(short *wav, int numsamples, espeak_EVENT *events); 0 means go on
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """A synthesiser whose every utterance is the same samples, whatever was spoken before it.

    espeak-ng 1.52 keeps state between utterances in static variables that no call resets (the place in the pitch
    flutter table, the cycle count of the roughness, the gain control; ``wavegen.c``): the same text twice differs in
    pitch and by some 20 samples in length, also after ``espeak_Terminate`` and another ``espeak_Initialize``.
    So each utterance loads the library anew and unloads it: 3 ms. It also leaves nothing to tear down at exit.

    Someone else in the process who holds the same library loaded keeps it from being unloaded: the speech is then as
    good, but depends on the order.
    """

    #: what espeak_Initialize returns for every voice but MBROLA's
    sample_rate_hz = 22050
    # the library's state is one per process
    _lock = threading.Lock()

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise AsrError(f"speech synthesis wants the package espeakng-loader: run {INSTALL}") from error
        self._library_path = espeakng_loader.get_library_path()
        self._data_path = Path(self._library_path).parent / "espeak-ng-data"

    def variants(self) -> list[str]:
        """Return the speaker variants that a language can be combined with (``f3`` in ``en-us+f3``)."""
        return sorted(p.name for p in (self._data_path / "voices" / "!v").glob("*"))

    def speak(
        self,
        text: str,
        voice: str,
        *,
        rate_wpm: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        volume: int = 100,
        word_gap: int = 0,
    ) -> Wave:
        """Return the samples of a text spoken by a voice.

        Shapes: (n,) float32 in [-1, 1].
        Units: ``rate_wpm`` words a minute, 80-450; ``pitch`` and ``pitch_range`` 0-99 (50 is the voice's own);
        ``volume`` 0-200 (100 is normal); ``word_gap`` a pause between words in 10 ms at the default rate.

        Args:
            voice: a language, and a variant after a plus: ``en-us+f3``. British English is called ``en``.

        Raises:
            AsrError: the library does not load, has no such voice, or made no sound.
        """
        self._check_variant(voice)
        chunks: list[bytes] = []

        def collect(wav: int | None, num_samples: int, events: int | None) -> int:
            if wav and num_samples > 0:  # NULL says that the text is done
                chunks.append(ctypes.string_at(wav, 2 * num_samples))
            return 0

        callback = _CALLBACK(collect)  # a name keeps it alive while the library may call it
        parameters = {_RATE: rate_wpm, _VOLUME: volume, _PITCH: pitch, _RANGE: pitch_range, _WORDGAP: word_gap}
        with self._lock, _short_path(self._data_path) as data_path:
            library = self._load(data_path)
            try:
                library.espeak_SetSynthCallback(callback)
                # Also restores the voice's defaults, so it comes before the parameters
                if library.espeak_SetVoiceByName(voice.encode()) != 0:
                    raise AsrError(f"espeak-ng has no voice '{voice}'; try 'en', 'en-us' or 'en-us+f3'")
                for parameter, value in parameters.items():
                    library.espeak_SetParameter(parameter, value, 0)
                # espeak_ng.h: espeak_ng_SetRandSeed(long); espeak_Initialize seeds from the clock
                library.espeak_ng_SetRandSeed(ctypes.c_long(1))
                data = text.encode() + b"\0"
                status = library.espeak_Synth(
                    data, ctypes.c_size_t(len(data)), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
                )
                library.espeak_Synchronize()
            finally:
                library.espeak_Terminate()
                _unload(library)

        if status != 0 or not chunks:
            raise AsrError(f"espeak-ng made no sound of {text!r} with voice '{voice}' (status {status})")
        return np.frombuffer(b"".join(chunks), np.int16).astype(np.float32) / np.float32(32768)

    def _load(self, data_path: Path) -> ctypes.CDLL:
        try:
            library = ctypes.CDLL(self._library_path)
        except OSError as error:
            raise AsrError(f"cannot load the espeak-ng library ({error}): run {INSTALL} again") from error

        rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data_path), _INITIALIZE_DONT_EXIT)
        if rate_hz != self.sample_rate_hz:
            _unload(library)
            raise AsrError(f"espeak-ng cannot use its data in {self._data_path}: run {INSTALL} again")
        return library

    def _check_variant(self, voice: str) -> None:
        """Refuse an unknown variant, which espeak-ng itself silently ignores."""
        variant = voice.partition("+")[2]
        known = self.variants()
        if variant and known and variant not in known:  # without any, the data is missing: _load says so
            raise AsrError(f"espeak-ng has no voice variant '{variant}' (of '{voice}'){nearest(variant, known)}")


@contextmanager
def _short_path(path: Path) -> Iterator[Path]:
    """Return a name of a folder that espeak-ng has room for.

    Source: ``speech.h``, N_PATH_HOME: 160 bytes; it cuts a longer path off and then finds no data. In a virtual
    environment the data's own part is some 65 bytes.
    """
    if len(os.fsencode(path)) < 150:
        yield path
        return

    with tempfile.TemporaryDirectory(prefix="asr-espeak-") as folder:
        link = Path(folder) / "data"
        try:
            link.symlink_to(path, target_is_directory=True)
        except OSError as error:  # Windows wants a privilege for it
            raise AsrError(f"espeak-ng wants a shorter path than {path}: use a virtual environment nearer /") from error
        yield link


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes  # what ctypes itself loads with; it has no public name for the way back

    unload = getattr(_ctypes, "FreeLibrary" if os.name == "nt" else "dlclose")
    unload(library._handle)
