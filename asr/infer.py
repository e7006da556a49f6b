"""The one forward pass of use: validation, evaluation and transcription all go through here.

Axes: s steps, v vocabulary, t frames, f bins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from asr.batch import Features, extract, fits_into_memory, load_wave
from asr.data.manifest import Manifest, Utterance
from asr.decode.types import LogProbs
from asr.errors import AsrError, ConfigError, DataError, nearest
from asr.model.checkpoint import AcousticModel
from asr.model.network import DeepSpeech2
from asr.recordings.speech import NO_SPEECH_THRESHOLD, no_speech_prob, second_opinion, without_words

#: padded audio in one batch, seconds: it bounds the memory
BATCH_S = 80.0
#: audio that ``pipeline`` sorts by length, seconds; the first windows are shorter, so that first answers come early
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
    """Return the same model with an inference network, which answers several times as fast on a CPU.

    Its answers are the same bits in any batch, in any order, on any number of threads. It keeps the weights of now.
    The model itself is returned if there is no inference network for it: on another device, for another network than
    the recurrent one, or on a processor without the instructions.

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
    # Imported here, since it loads numba in 0.3 s, which training does not need.
    from asr.model.cpu.inference import InferenceNetwork, runs_here

    if precision == "auto":
        usable = [name for name in ("bf16", "fp32") if runs_here(name)]
        if not usable:
            return model
        precision = usable[0]
    elif not runs_here(precision):
        raise ConfigError(f"precision {precision}: this processor has no such products; use auto", key="precision")
    fast = InferenceNetwork(network, precision)
    return AcousticModel(fast, model.extractor, model.tokenizer, model.audio, model.text, model.training)


def log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Compute log-probabilities of utterances as one batch; each gets what it would get alone.

    Shapes: b times (t, f) -> b times (s, v).

    Raises:
        AsrError: the model is broken: a log-probability is not a number.
    """
    if not features:
        return []
    model.network.eval()
    all_sv = model.network.each(features)
    if any(np.isnan(one_sv).any() for one_sv in all_sv):
        raise AsrError("the model gives values that are not numbers: its weights are damaged, or training diverged")
    return all_sv


def batched(durations_s: Sequence[float], batch_s: float = BATCH_S) -> Iterator[list[int]]:
    """Yield indexes in batches of like duration, none padded beyond ``batch_s`` (one longer utterance goes alone)."""
    batch: list[int] = []
    for i in sorted(range(len(durations_s)), key=durations_s.__getitem__):
        if batch and (len(batch) + 1) * durations_s[i] > batch_s:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def all_log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Compute log-probabilities of any number of utterances, in their own order."""
    out: list[LogProbs] = [np.empty((0, 0), np.float32)] * len(features)
    for indexes in batched([len(features_tf) * model.frame_s for features_tf in features]):
        for i, one_sv in zip(indexes, log_probs(model, [features[i] for i in indexes]), strict=True):
            out[i] = one_sv
    return out


def of_manifest(
    model: AcousticModel, manifest: Manifest, *, no_speech_threshold: float = NO_SPEECH_THRESHOLD
) -> Iterator[tuple[Utterance, LogProbs | DataError]]:
    """Yield each utterance of a manifest with its log-probabilities, or with why its audio cannot be used.

    Utterances come from the shortest to the longest, not in the manifest's order. Memory does not grow with the
    manifest.

    Args:
        no_speech_threshold: an utterance whose ``no_speech_prob`` is above this becomes blank at every step, as in
            transcription; 1 keeps all.
    """
    rate_hz = model.audio.sample_rate_hz
    logged_hz: set[int] = set()
    unusable: list[tuple[Utterance, DataError]] = []

    def stream() -> Iterator[tuple[tuple[Utterance, float], Features]]:
        for utterance in sorted(manifest.utterances, key=lambda u: u.duration_s):
            try:
                wave_n = load_wave(manifest, utterance, rate_hz, model.audio.resample, logged_hz)
                no_speech = no_speech_prob(wave_n, rate_hz) if no_speech_threshold < 1 else 0.0
                with fits_into_memory(utterance):
                    features_tf = extract(model.extractor, wave_n)
            except DataError as error:
                unusable.append((utterance, error))
                continue
            yield (utterance, no_speech), features_tf

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
) -> Iterator[tuple[Key, T]]:
    """Yield each item's key and what ``decode`` makes of its log-probabilities, in order; the stream may be endless.

    Items are drawn in the caller's thread, while others go through the network in batches of like length, on as many
    threads as torch may use here; each thread decodes what it computed. At most ``2 * AHEAD_S`` of audio is held.
    Batches, windows and threads change no answer beyond what ``log_probs`` says.

    Args:
        decode: called from several threads at a time.

    Raises:
        AsrError: as ``log_probs``. Also raises what ``items`` and ``decode`` raise, where the answer would have come;
            threads are stopped then, and when the iterator is closed.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" else max(2, torch.get_num_threads())
    # Each thread computes alone: there is no barrier at which threads would wait for each other.
    pool = ThreadPoolExecutor(threads, "asr-infer", initializer=torch.set_num_threads, initargs=(1,))

    def submit(window: list[tuple[Features, Future[T]]]) -> None:
        for batch in _shares(window, model.frame_s, threads, batch_s):
            pool.submit(_answer, model, decode, batch)

    waiting: deque[tuple[Key, Future[T]]] = deque()
    window: list[tuple[Features, Future[T]]] = []
    window_s = 0.0
    limit_s = min(batch_s, AHEAD_S)
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
            answer: Future[T] = Future()
            waiting.append((key, answer))
            window.append((features_tf, answer))
            window_s += max(len(features_tf) * model.frame_s, _LEAST_S)
            if window_s < limit_s:
                yield from _take(waiting, len(waiting))
                continue

            submit(window)
            yield from _take(waiting, len(window))  # usually the window before
            window = []
            window_s = 0.0
            limit_s = min(2 * limit_s, AHEAD_S)

        submit(window)
        yield from _take(waiting, 0)
        if stopped is not None:
            raise stopped
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shares(
    window: list[tuple[Features, Future[T]]], frame_s: float, threads: int, batch_s: float
) -> Iterator[list[tuple[Features, Future[T]]]]:
    """Yield a window in batches of like length, small enough that every thread gets one."""
    durations_s = [len(features_tf) * frame_s for features_tf, _ in window]
    share_s = min(batch_s, max(sum(durations_s) / threads, _SHARE_S))
    for indexes in batched(durations_s, share_s):
        yield [window[i] for i in indexes]


def _answer(model: AcousticModel, decode: Callable[[LogProbs], T], batch: Sequence[tuple[Features, Future[T]]]) -> None:
    """Compute and decode a batch, and give each utterance its answer or what was raised."""
    try:
        all_sv = log_probs(model, [features_tf for features_tf, _ in batch])
    except BaseException as error:
        for _, answer in batch:
            answer.set_exception(error)
        return
    for (_, answer), one_sv in zip(batch, all_sv, strict=True):
        try:
            answer.set_result(decode(one_sv))
        except BaseException as error:
            answer.set_exception(error)


def _take(waiting: deque[tuple[Key, Future[T]]], most: int) -> Generator[tuple[Key, T], None, None]:
    """Yield the next answers while they are there, and wait for more until at most ``most`` items wait."""
    while waiting and (len(waiting) > most or waiting[0][1].done()):
        key, answer = waiting.popleft()
        yield key, answer.result()
