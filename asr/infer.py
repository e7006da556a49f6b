"""The one forward pass of use: validation, evaluation and transcription all go through here.

Axes: s steps, v vocabulary, t frames, f bins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from asr.ahead import LEAST_S, ahead_of_gpu
from asr.data.manifest import Manifest, Utterance
from asr.decode.types import LogProbs
from asr.errors import AsrError, DataError
from asr.machine import free_gpu_memory, is_out_of_memory, num_threads, pool_of
from asr.model.contract import AcousticModel
from asr.recordings.speech import NO_SPEECH_THRESHOLD, no_speech_prob, second_opinion, without_words
from asr.utterance import Features, extract, fits_into_memory, load_wave

#: padded audio in one batch, seconds: it bounds the memory
BATCH_S = 80.0
#: audio that ``pipeline`` sorts by length, seconds; the first windows are shorter, so that first answers come early
AHEAD_S = 320.0
#: The same on a GPU, which takes about as long for a recurrent step of 100 utterances as for one of 10.
GPU_BATCH_S, GPU_AHEAD_S = 1000.0, 4000.0
#: the least audio for which ``pipeline`` starts another thread
_SHARE_S = 10.0
#: what the caller knows an utterance by, and what is made of its log-probabilities
Key = TypeVar("Key")
T = TypeVar("T")
#: an utterance in a window, and where its answer goes
_Item: TypeAlias = tuple[Features, "Future[T | DataError]"]


def log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Compute log-probabilities of utterances as one batch; each gets what it would get alone.

    Shapes: b times (t, f) -> b times (s, v).

    Raises:
        AsrError: the model is broken: a log-probability is not a number.
        DataError: an utterance alone does not fit into the memory.
    """
    all_sv = []
    for one_sv in _fitting_log_probs(model, features):
        if isinstance(one_sv, DataError):
            raise one_sv
        all_sv.append(one_sv)
    return all_sv


def _fitting_log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs | DataError]:
    """Compute a batch, in halves if it does not fit into the memory; an utterance that does not fit alone is an error.

    Raises:
        AsrError: a log-probability is not a number.
    """
    if not features:
        return []
    model.network.eval()
    try:
        all_sv = model.network.each(features)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        all_sv = None

    if all_sv is None:  # only here: inside ``except`` the error would still hold the tensors of the batch
        free_gpu_memory()
        middle = len(features) // 2
        if not middle:
            problem = f"{len(features[0]) * model.frame_s:,.1f} s at once do not fit into the memory"
            return [DataError(f"{problem}; cut them into shorter parts (asr transcribe: --longest)")]
        return _fitting_log_probs(model, features[:middle]) + _fitting_log_probs(model, features[middle:])

    if any(np.isnan(one_sv).any() for one_sv in all_sv):
        cause = "its weights are damaged, or training diverged"
        if getattr(model.network, "precision", "") == "fp16":
            cause += ", or they are too large for fp16: try --precision fp32"
        raise AsrError(f"the model gives values that are not numbers: {cause}")
    return list(all_sv)


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
    durations_s = [len(features_tf) * model.frame_s for features_tf in features]
    for indexes in batched(durations_s, _batch_and_window_s(model)[0]):
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

    def load(utterance: Utterance) -> tuple[Utterance, float, Features | DataError]:
        try:
            wave_n = load_wave(manifest, utterance, rate_hz, model.audio.resample, logged_hz)
            no_speech = no_speech_prob(wave_n, rate_hz) if no_speech_threshold < 1 else 0.0
            with fits_into_memory(utterance):
                return utterance, no_speech, extract(model.extractor, wave_n)
        except DataError as error:
            return utterance, 0.0, error

    def stream() -> Iterator[tuple[tuple[Utterance, float], Features]]:
        by_length = sorted(manifest.utterances, key=lambda u: u.duration_s)
        for utterance, no_speech, features_tf in ahead_of_gpu(
            model.on_gpu, ((u.duration_s, partial(load, u)) for u in by_length)
        ):
            if isinstance(features_tf, DataError):
                unusable.append((utterance, features_tf))
            else:
                yield (utterance, no_speech), features_tf

    for (utterance, no_speech), one_sv in pipeline(model, stream(), lambda one_sv: one_sv):
        while unusable:
            yield unusable.pop()
        if isinstance(one_sv, DataError):
            yield utterance, DataError(f"utt '{utterance.id}': {one_sv}")
            continue
        spoken = second_opinion(no_speech, one_sv) <= no_speech_threshold
        yield utterance, one_sv if spoken else without_words(one_sv)
    yield from unusable


def pipeline(
    model: AcousticModel,
    items: Iterable[tuple[Key, Features]],
    decode: Callable[[LogProbs], T],
    *,
    batch_s: float | None = None,
) -> Iterator[tuple[Key, T | DataError]]:
    """Yield each item's key and what ``decode`` makes of its log-probabilities, in order; the stream may be endless.

    Items are drawn in the caller's thread, while others go through the network in batches of like length. On a CPU that
    is done by as many threads as may be used here, each of which decodes what it computed; at most ``2 * AHEAD_S`` of
    audio is held. A GPU has one thread, and a pool that decodes; at most ``2 * GPU_AHEAD_S`` is held. Batches, windows
    and threads change no answer beyond what ``log_probs`` says. An item that does not fit into the memory alone gets a
    DataError as its answer.

    Args:
        decode: called from several threads at a time.
        batch_s: padded audio in one batch; default: ``BATCH_S`` or ``GPU_BATCH_S``.

    Raises:
        AsrError: as ``log_probs``. Also raises what ``items`` and ``decode`` raise, where the answer would have come;
            threads are stopped then, and when the iterator is closed.
    """
    on_gpu = model.on_gpu
    usual_s, ahead_s = _batch_and_window_s(model)
    batch_s = batch_s or usual_s
    threads = 1 if on_gpu else num_threads()
    pool = pool_of(threads, "asr-infer")
    decoders = pool_of(num_threads(), "asr-infer-decode") if on_gpu else None

    def submit(window: list[_Item[T]]) -> None:
        for batch in _shares(window, model.frame_s, threads, batch_s):
            pool.submit(_answer, model, decode, batch, decoders)

    waiting: deque[tuple[Key, Future[T | DataError]]] = deque()
    window: list[_Item[T]] = []
    window_s = 0.0
    limit_s = min(batch_s, ahead_s)
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
            answer: Future[T | DataError] = Future()
            waiting.append((key, answer))
            window.append((features_tf, answer))
            window_s += max(len(features_tf) * model.frame_s, LEAST_S)
            if window_s < limit_s:
                yield from _take(waiting, len(waiting))
                continue

            submit(window)
            yield from _take(waiting, len(window))  # usually the window before
            window = []
            window_s = 0.0
            limit_s = min(2 * limit_s, ahead_s)

        submit(window)
        yield from _take(waiting, 0)
        if stopped is not None:
            raise stopped
    finally:
        if isinstance(source, Generator):
            source.close()  # it may have threads of its own
        pool.shutdown(wait=True, cancel_futures=True)
        if decoders is not None:
            decoders.shutdown(wait=True, cancel_futures=True)


def _batch_and_window_s(model: AcousticModel) -> tuple[float, float]:
    return (GPU_BATCH_S, GPU_AHEAD_S) if model.on_gpu else (BATCH_S, AHEAD_S)


def _shares(window: list[_Item[T]], frame_s: float, threads: int, batch_s: float) -> Iterator[list[_Item[T]]]:
    """Yield a window in batches of like length, small enough that every thread gets one."""
    durations_s = [len(features_tf) * frame_s for features_tf, _ in window]
    share_s = min(batch_s, max(sum(durations_s) / threads, _SHARE_S))
    for indexes in batched(durations_s, share_s):
        yield [window[i] for i in indexes]


def _answer(
    model: AcousticModel, decode: Callable[[LogProbs], T], batch: Sequence[_Item[T]], decoders: Executor | None
) -> None:
    """Compute and decode a batch (in ``decoders``, or here), and give each utterance its answer or what was raised."""
    try:
        all_sv = _fitting_log_probs(model, [features_tf for features_tf, _ in batch])
    except BaseException as error:
        for _, answer in batch:
            answer.set_exception(error)
        return
    for (_, answer), one_sv in zip(batch, all_sv, strict=True):
        if decoders is None:
            _decode(decode, one_sv, answer)
        else:
            decoders.submit(_decode, decode, one_sv, answer)


def _decode(decode: Callable[[LogProbs], T], log_probs_sv: LogProbs | DataError, answer: Future[T | DataError]) -> None:
    try:
        answer.set_result(log_probs_sv if isinstance(log_probs_sv, DataError) else decode(log_probs_sv))
    except BaseException as error:
        answer.set_exception(error)


def _take(
    waiting: deque[tuple[Key, Future[T | DataError]]], most: int
) -> Generator[tuple[Key, T | DataError], None, None]:
    """Yield the next answers while they are there, and wait for more until at most ``most`` items wait."""
    while waiting and (len(waiting) > most or waiting[0][1].done()):
        key, answer = waiting.popleft()
        yield key, answer.result()
