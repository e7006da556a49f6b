"""The one forward pass of use: validation, evaluation and transcription all go through here.

Axes: s steps, v vocabulary, t frames, f bins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
import torch

from asr.batch import Features, extract, load_wave, pad
from asr.data.manifest import Manifest, Utterance
from asr.decode.types import LogProbs
from asr.errors import AsrError, ConfigError, DataError, nearest
from asr.model.checkpoint import AcousticModel
from asr.model.network import DeepSpeech2
from asr.recordings.speech import NO_SPEECH_THRESHOLD, no_speech_prob, second_opinion, without_words

#: padded audio in one batch, seconds: it bounds the memory
BATCH_S = 80.0
#: audio that ``pipeline`` holds beside what is in the network: what it sorts by length
AHEAD_S = 320.0
#: the least audio for which ``pipeline`` starts another thread
_SHARE_S = 10.0
#: what an utterance counts at least in a window: endless empty ones must not fill the memory
_LEAST_S = 0.1
#: what the caller knows an utterance by, and what is made of its log-probabilities
Key = TypeVar("Key")
T = TypeVar("T")


PRECISIONS = ("auto", "fp32", "bf16")


def prepared(model: AcousticModel, precision: str = "auto") -> AcousticModel:
    """The same model for use only: its network replaced by a twin that answers several times as fast on a CPU.

    The twin's answers are the same bits in any batch, in any order, on any number of threads. It keeps the weights of
    now. What has no twin comes back as it is: another device, another network than the recurrent one, a processor
    without the instructions.

    Args:
        precision: of products; sums, states and gates are float32. ``auto``: bf16 where the processor multiplies it,
            else float32.

    Raises:
        ConfigError: the precision is unknown, or this processor cannot do it.
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"unknown precision '{precision}' ({known}){nearest(precision, PRECISIONS)}", key="precision")
    network = model.network.eval()
    if type(network) is not DeepSpeech2 or model.device.type != "cpu":
        return model
    from asr.model.cpu.inference import FastNetwork, runs_here  # numba: 0.3 s that training has no use for

    if precision == "auto":
        precision = next((one for one in ("bf16", "fp32") if runs_here(one)), "")
        if not precision:
            return model
    elif not runs_here(precision):
        raise ConfigError(f"precision {precision}: this processor has no such products; use auto", key="precision")
    twin = FastNetwork(network, precision)
    return AcousticModel(twin, model.extractor, model.tokenizer, model.audio, model.text, model.training)


def log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Log-probabilities of utterances as one padded batch; each is what it would be alone.

    Shapes: b times (t, f) -> b times (s, v).

    Raises:
        AsrError: the model is broken: a log-probability is not a number.
    """
    if not features:
        return []
    each = getattr(model.network, "each", None)  # a twin's own way, without padding
    if each is None:
        features_btf, num_frames_b = pad(features)
        model.network.eval()
        with torch.inference_mode():
            log_probs_bsv, num_steps_b = model.network(features_btf.to(model.device), num_frames_b.to(model.device))
        all_bsv = log_probs_bsv.float().cpu().numpy()
        every_sv = [all_bsv[i, :steps] for i, steps in enumerate(num_steps_b.tolist())]
    else:
        every_sv = each(features)
    if any(np.isnan(one_sv).any() for one_sv in every_sv):
        raise AsrError("the model gives values that are not numbers: its weights are damaged, or training diverged")
    return every_sv


def batched(durations_s: Sequence[float], batch_s: float = BATCH_S) -> Iterator[list[int]]:
    """Indexes in batches of like duration, none padded beyond ``batch_s`` (one longer utterance goes alone)."""
    batch: list[int] = []
    for i in sorted(range(len(durations_s)), key=durations_s.__getitem__):
        if batch and (len(batch) + 1) * durations_s[i] > batch_s:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def all_log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Log-probabilities of any number of utterances, in their own order."""
    out: list[LogProbs] = [None] * len(features)  # type: ignore[list-item]
    for indexes in batched([len(one_tf) * model.frame_s for one_tf in features]):
        for i, one_sv in zip(indexes, log_probs(model, [features[i] for i in indexes]), strict=True):
            out[i] = one_sv
    return out


def of_manifest(
    model: AcousticModel, manifest: Manifest, *, no_speech_threshold: float = NO_SPEECH_THRESHOLD
) -> Iterator[tuple[Utterance, LogProbs | DataError]]:
    """Yield each utterance of a manifest with its log-probabilities, or with why its audio cannot be used.

    The order is that of ``pipeline``, from the shortest utterance to the longest, not the manifest's. Memory does not
    grow with the manifest.

    Args:
        no_speech_threshold: an utterance whose ``no_speech_prob`` is above this becomes blank at every step, as in
            transcription; 1 keeps all.
    """
    said_hz: set[int] = set()
    unusable: list[tuple[Utterance, DataError]] = []

    def stream() -> Iterator[tuple[tuple[Utterance, float], Features]]:
        for utterance in sorted(manifest.utterances, key=lambda u: u.duration_s):
            try:
                wave_n = load_wave(manifest, utterance, model.audio.sample_rate_hz, model.audio.resample, said_hz)
            except DataError as error:
                unusable.append((utterance, error))
                continue
            rate_hz = model.audio.sample_rate_hz
            no_speech = no_speech_prob(wave_n, rate_hz) if no_speech_threshold < 1 else 0.0
            yield (utterance, no_speech), extract(model.extractor, wave_n)

    for (utterance, no_speech), one_sv in pipeline(model, stream(), lambda one_sv: one_sv, batch_s=BATCH_S):
        while unusable:
            yield unusable.pop()
        spoken = second_opinion(no_speech, one_sv) <= no_speech_threshold
        yield utterance, one_sv if spoken else without_words(one_sv)
    yield from unusable


def pipeline(
    model: AcousticModel,
    items: Iterable[tuple[Key, Features]],
    decode: Callable[[LogProbs], T],
    *,
    batch_s: float = BATCH_S,
    ahead_s: float = AHEAD_S,
    ordered: bool = True,
) -> Iterator[tuple[Key, T]]:
    """Each item's key, and what ``decode`` makes of its log-probabilities; the stream of items may have no end.

    Items are drawn in the caller's thread, while others go through the network in batches of like length, on as many
    threads as torch may use here; each thread decodes what it computed. At most ``2 * ahead_s`` of audio is held.
    Batches, windows and threads change no answer beyond what ``log_probs`` says.

    Args:
        decode: called from several threads at a time.
        ahead_s: the window that is sorted by length. The first ones are shorter, so that first answers come early.
        ordered: in the order of the items; otherwise as soon as each is known.

    Raises:
        AsrError: as ``log_probs``. Also raises what ``items`` and ``decode`` raise, where the answer would have come;
            threads are stopped then, and when the iterator is closed.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" else max(2, torch.get_num_threads())
    hop_s = model.frame_s
    model.network.eval()
    results: _Results[Key, T] = _Results(ordered)

    def work(batch: list[tuple[int, Features]]) -> None:
        try:
            every_sv = log_probs(model, [features_tf for _, features_tf in batch])
        except BaseException as error:
            for number, _ in batch:
                results.give(number, error)
            return
        for (number, _), one_sv in zip(batch, every_sv, strict=True):
            try:
                results.give(number, _Value(decode(one_sv)))
            except BaseException as error:
                results.give(number, error)

    # Each thread computes alone: there is no barrier at which threads would wait for each other.
    pool = ThreadPoolExecutor(threads, "asr-infer", initializer=torch.set_num_threads, initargs=(1,))

    def submit(window: list[tuple[int, Features]]) -> None:
        durations_s = [len(features_tf) * hop_s for _, features_tf in window]
        share_s = min(batch_s, max(sum(durations_s) / threads, _SHARE_S))
        for indexes in batched(durations_s, share_s):
            pool.submit(work, [window[i] for i in indexes])

    window: list[tuple[int, Features]] = []
    seconds, limit_s = 0.0, min(batch_s, ahead_s)
    stopped: Exception | None = None
    source = iter(items)
    try:
        while stopped is None:
            try:
                key, features_tf = next(source)
            except StopIteration:
                break
            except Exception as error:
                stopped = error
                break
            window.append((results.expect(key), features_tf))
            seconds += max(len(features_tf) * hop_s, _LEAST_S)
            if seconds < limit_s:
                yield from results.take(results.waiting)
                continue
            submit(window)
            yield from results.take(len(window))  # the window before, as a rule
            window, seconds, limit_s = [], 0.0, min(2 * limit_s, ahead_s)
        submit(window)
        yield from results.take(0)
        if stopped is not None:
            raise stopped
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Value(Generic[T]):
    """An answer, told from an exception whatever it is."""

    def __init__(self, value: T) -> None:
        self.value = value


class _Results(Generic[Key, T]):
    """Answers from several threads, given out to one."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._keys: dict[int, Key] = {}
        self._next = self._expected = 0
        self._here: dict[int, _Value[T] | BaseException] = {}
        self._given: SimpleQueue[tuple[int, _Value[T] | BaseException]] = SimpleQueue()

    @property
    def waiting(self) -> int:
        """Items whose answer was not given out yet."""
        return len(self._keys)

    def expect(self, key: Key) -> int:
        """The number of the next item."""
        self._keys[self._expected] = key
        self._expected += 1
        return self._expected - 1

    def give(self, number: int, answer: _Value[T] | BaseException) -> None:
        """The answer of an item, from any thread."""
        self._given.put((number, answer))

    def take(self, left: int) -> Generator[tuple[Key, T], None, None]:
        """Answers that are there, and those to come until only ``left`` items wait."""
        while len(self._keys) > left or not self._given.empty():
            number, answer = self._given.get()
            self._here[number] = answer
            if not self._ordered:
                yield self._out(number)
            while self._next in self._here:
                yield self._out(self._next)
                self._next += 1

    def _out(self, number: int) -> tuple[Key, T]:
        answer = self._here.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return self._keys.pop(number), answer.value
