"""Speed of log-mel features beside other front ends: the same waves, in one run.

    pip install -r benchmarks/requirements-features.txt
    python -m benchmarks.features

A front end that is not installed is left out, and a line says so. All make 80 mel bins of windows of 25 ms every 10 ms,
from waves at 16 kHz, one by one. They differ in details (the filters' scale, the window's shape, the ends); the mel
spectrogram of torchaudio is set to our formula, and the greatest difference to it is printed. Times are processor time
by turns, on one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig
from asr.features.frames import FeatureExtractor
from benchmarks.turns import by_turns, machine, ratio, table, version_of

RATE_HZ, BINS, WINDOW, HOP, FFT = 16_000, 80, 400, 160, 512
Floats = npt.NDArray[np.float32]
Features = Callable[[Floats], object]
CONFIG = FeatureConfig(kind="log_mel", num_mels=BINS, normalization="none")


def ours() -> Features:
    """Return this project's, without normalisation."""
    return FeatureExtractor(CONFIG, RATE_HZ).raw


def ours_normalized() -> Features:
    """Return this project's, with the mean and deviation of each utterance."""
    return FeatureExtractor(CONFIG.model_copy(update={"normalization": "utterance"}), RATE_HZ)


def torchaudio() -> Features:
    """Return torchaudio's mel spectrogram, and its logarithm. Shapes: (n,) -> (f, t)."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    torch.set_num_threads(1)
    mel = MelSpectrogram(
        RATE_HZ, FFT, WINDOW, HOP, f_min=CONFIG.low_hz, f_max=RATE_HZ / 2, n_mels=BINS, pad_mode="constant"
    )
    return lambda wave_n: mel(torch.from_numpy(wave_n)).clamp(min=CONFIG.power_floor).log()


def kaldi_of_torchaudio() -> Features:
    """Return torchaudio's Kaldi features."""
    import torch
    from torchaudio.compliance.kaldi import fbank

    return lambda wave_n: fbank(torch.from_numpy(wave_n)[None] * 32768, num_mel_bins=BINS, snip_edges=False)


def librosa() -> Features:
    """Return librosa's."""
    from librosa.feature import melspectrogram

    sizes = {"n_fft": FFT, "win_length": WINDOW, "hop_length": HOP, "n_mels": BINS}
    return lambda wave_n: np.log(
        melspectrogram(y=wave_n, sr=RATE_HZ, pad_mode="constant", **sizes) + CONFIG.power_floor
    )


def asrfront_whisper() -> Features:
    """Return asrfront's features of Whisper, of the wave as long as it is."""
    from asrfront import whisper

    return lambda wave_n: whisper.log_mel(wave_n, pad_or_trim=False)


def asrfront_kaldi() -> Features:
    """Return asrfront's Kaldi features."""
    from asrfront import sensevoice

    return sensevoice.fbank_raw


def kaldi_native_fbank() -> Features:
    """Return those of kaldi-native-fbank."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.mel_opts.num_bins = RATE_HZ, 0, BINS

    def features(wave_n: Floats) -> object:
        fbank = kaldi_native_fbank.OnlineFbank(options)
        fbank.accept_waveform(RATE_HZ, wave_n)
        fbank.input_finished()
        return [fbank.get_frame(t) for t in range(fbank.num_frames_ready)]

    return features


OURS = "this project"
#: by name: the package, and what makes the function
FRONT_ENDS: dict[str, tuple[str, Callable[[], Features]]] = {
    OURS: ("", ours),
    "this project, normalised": ("", ours_normalized),
    "asrfront, Whisper": ("asrfront", asrfront_whisper),
    "asrfront, Kaldi": ("asrfront", asrfront_kaldi),
    "torchaudio": ("torchaudio", torchaudio),
    "torchaudio, Kaldi": ("torchaudio", kaldi_of_torchaudio),
    "librosa": ("librosa", librosa),
    "kaldi-native-fbank": ("kaldi-native-fbank", kaldi_native_fbank),
}


def waves_of(count: int, seconds: float) -> list[Floats]:
    """Make noise, whose level rises and falls as that of speech does."""
    rng = np.random.default_rng(0)
    samples = round(seconds * RATE_HZ)
    level_n = 0.02 + 0.1 * np.abs(np.sin(np.arange(samples) * (np.pi * 4 / RATE_HZ)))
    return [(level_n * rng.standard_normal(samples)).astype(np.float32) for _ in range(count)]


def measure(waves: list[Floats], rounds: int) -> list[list[str]]:
    """Measure every front end that is installed; return the rows of the table."""
    found: dict[str, Features] = {}
    for name, (_, make) in FRONT_ENDS.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    ways = {name: lambda one=one: [one(wave_n) for wave_n in waves] for name, one in found.items()}
    seconds = by_turns(ways, rounds)
    audio_s = sum(map(len, waves)) / RATE_HZ
    return [
        [
            name if not FRONT_ENDS[name][0] else name.replace(FRONT_ENDS[name][0], version_of(FRONT_ENDS[name][0])),
            f"{audio_s / median(seconds[name]):,.0f}",
            f"{ratio(seconds, name, OURS):.2f}",
        ]
        for name in found
    ]


def difference_to_torchaudio(wave_n: Floats) -> float:
    """Return the greatest difference between our features and torchaudio's."""
    theirs_ft = np.asarray(torchaudio()(wave_n))
    return float(np.abs(FeatureExtractor(CONFIG, RATE_HZ).raw(wave_n) - theirs_ft.T).max())


def main() -> int:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=summary)
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0, 60.0], help="lengths of the waves")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    for length_s in arguments.seconds:
        waves = waves_of(8, length_s)
        print(f"\n8 waves of {length_s:g} s, one by one\n")
        print(table(["front end", "seconds of audio per second", "times our time"], measure(waves, arguments.rounds)))
    with contextlib.suppress(ImportError):
        print(f"\ngreatest difference to torchaudio: {difference_to_torchaudio(waves[0]):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
