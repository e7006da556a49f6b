"""From a manifest to batches: what is trained on, in which order, padded to what.

Axes: b batch, n samples, t frames, f bins, u targets.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr import audio, shards
from asr.augment import bin_centres_hz, spec_augment, warp_frequencies
from asr.config import RunConfig
from asr.distort import Distorter
from asr.errors import ConfigError, DataError
from asr.features import FeatureExtractor
from asr.manifest import Manifest, Utterance
from asr.model import Network
from asr.model.contract import AnyExtractor
from asr.runtime import generator, stable_seed
from asr.text import normalize
from asr.tokenizer import Tokenizer

log = logging.getLogger(__name__)
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Padded utterances with their lengths.

    Shapes: (b, t, f), (b,), (b, u), (b,); int64 lengths; padding is 0.
    """

    features_btf: Tensor
    num_frames_b: Tensor
    targets_bu: Tensor
    num_targets_b: Tensor
    ids: tuple[str, ...]
    #: seconds of audio, padding not counted
    duration_s: float
    #: the same utterances under other masks, for train.consistency. Shapes: (b, t, f)
    twin_btf: Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its utterances, padded to the longest of them; of the seconds their part."""
        num_frames_b, num_targets_b = self.num_frames_b[start:stop], self.num_targets_b[start:stop]
        longest = int(num_frames_b.max())
        return Batch(
            self.features_btf[start:stop, :longest], num_frames_b,
            self.targets_bu[start:stop, : int(num_targets_b.max())], num_targets_b,
            self.ids[start:stop], self.duration_s * int(num_frames_b.sum()) / max(1, int(self.num_frames_b.sum())),
            None if self.twin_btf is None else self.twin_btf[start:stop, :longest],
        )  # fmt: skip

    @property
    def area(self) -> int:
        """Frames of one view, padding included."""
        return self.features_btf.shape[0] * self.features_btf.shape[1]


def empty_batch(bins: int) -> Batch:
    """For a process that has nothing to do while others have: one utterance of no frames, which has no name."""
    return Batch(
        torch.zeros(1, 1, bins), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64), (), 0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A batch before it is loaded: which utterances, each at which speed."""

    items: tuple[tuple[int, float], ...]
    epoch: int


@dataclass(frozen=True)
class Dropped:
    """An utterance that is not trained on, and why."""

    id: str
    why: str


class Targets(Sequence[list[int]]):
    """The token ids of many transcripts, packed: as lists, LibriSpeech's would take half a gigabyte."""

    def __init__(self, targets: Iterable[Sequence[int]], vocabulary_size: int) -> None:
        code = "B" if vocabulary_size <= 2**8 else "H" if vocabulary_size <= 2**16 else "i"
        flat, ends = array(code), array("q", [0])
        for one in targets:
            if code == "B":
                flat.frombytes(bytes(one))  # four times as fast as extending it
            else:
                flat.extend(one)
            ends.append(len(flat))
        self._flat = np.frombuffer(flat, np.dtype(code))
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._flat[self._ends[index] : self._ends[index + 1]].tolist()

    def lengths(self) -> npt.NDArray[np.int64]:
        """Shapes: (utterances,)."""
        return np.diff(self._ends)

    def min_steps(self) -> npt.NDArray[np.int64]:
        """``ctc.min_steps`` of each, all at once. Shapes: (utterances,)."""
        starts, ends = self._ends[:-1], self._ends[1:]
        repeats = np.flatnonzero(self._flat[1:] == self._flat[:-1])  # at i: token i + 1 is token i again
        first, last = np.searchsorted(repeats, starts), np.searchsorted(repeats, np.maximum(starts, ends - 1))
        return ends - starts + last - first


def targets_of(manifest: Manifest, tokenizer: Tokenizer, normalization: str) -> Targets:
    """The token ids of every transcript.

    Raises:
        DataError: a transcript has a character that the tokenizer does not know; the utterance is named.
    """

    def encoded() -> Generator[list[int], None, None]:
        for utterance in manifest:
            try:
                yield tokenizer.encode(normalize(utterance.text, normalization))
            except DataError as error:
                raise DataError(f"utt '{utterance.id}': {error}", manifest.path) from error

    return Targets(encoded(), tokenizer.vocabulary_size)


def load_wave(
    manifest: Manifest, utterance: Utterance, sample_rate_hz: int, resample: bool, said_hz: set[int] | None = None
) -> audio.Wave:
    """The samples of one utterance at the model's rate.

    Raises:
        DataError: as ``audio.load``, or shorter than the manifest says; the utterance is named.
    """
    # A whole file is read without a length: the manifest's rounded duration must not cut its last samples.
    try:
        header = None if not utterance.offset_s else utterance.duration_s
        path = manifest.audio_path(utterance)
        wave, rate = audio.load(path, offset_s=utterance.offset_s, duration_s=header)
        limit = round(utterance.duration_s * rate)
        # 20 ms of slack, as in audio.load: less audio than planned for, and the labels may no longer fit it.
        if len(wave) < limit - 0.02 * rate:
            raise DataError(
                f"the manifest says {utterance.duration_s:.2f} s, but the file ends at {len(wave) / rate:.2f} s", path
            )
        if len(wave) > limit + 0.02 * rate:
            wave = wave[:limit]
        remedy = "resample the corpus, set audio.resample=true in training, or pass --resample in use"
        fitted = audio.at_rate(wave, rate, sample_rate_hz, resample, path, remedy)
        if rate != sample_rate_hz and said_hz is not None and rate not in said_hz:
            said_hz.add(rate)
            log.info("resampling %d Hz audio to %d Hz (first: utt '%s')", rate, sample_rate_hz, utterance.id)
        return fitted
    except DataError as error:
        raise DataError(f"utt '{utterance.id}': {error}") from error


def extract(extractor: AnyExtractor, wave_n: audio.Wave, seed: int | None = None) -> Features:
    """Features of one utterance, computed alone: no neighbour in a batch can matter. Shapes: (n,) -> (t, f)."""
    dither = None if seed is None else torch.Generator().manual_seed(seed)
    device = extractor.device
    waves_bn, num_samples_b = torch.from_numpy(wave_n)[None].to(device), torch.tensor([len(wave_n)], device=device)
    features_btf, _ = extractor(waves_bn, num_samples_b, dither)
    features_tf: Features = features_btf[0].cpu().numpy()
    return features_tf


def pad(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Stacks features of several lengths. Shapes: b times (t, f) -> (b, t, f), (b,)."""
    num_frames_b = torch.tensor([len(f) for f in features])
    features_btf = torch.zeros(len(features), int(num_frames_b.max()), features[0].shape[1])
    for i, one_tf in enumerate(features):
        features_btf[i, : len(one_tf)] = torch.from_numpy(one_tf)
    return features_btf, num_frames_b


class TrainingData:
    """The training set: filtered once, planned each epoch, loaded by worker threads, features kept in memory.

    Everything random depends on (seed, epoch, utterance id) alone.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        extractor: FeatureExtractor,
        network: Network,
        cfg: RunConfig,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        #: which part of each batch is loaded here, of how many
        self.share = share
        #: decides the plans; what of ``batch.max_batch_s: auto`` was found
        self.max_batch_s = math.inf if cfg.batch.max_batch_s == "auto" else cfg.batch.max_batch_s
        #: utterances that do not fit into memory alone, found in training
        self.too_large: set[str] = set()
        self.manifest, self.extractor, self.cfg = manifest, extractor, cfg
        self._distort = Distorter(cfg.augment, cfg.audio.sample_rate_hz)
        self._centres_hz = _centres_hz(cfg, extractor.num_bins) if cfg.augment.warp else None
        #: sample rates of which it was said that they are resampled
        self.said_hz: set[int] = set()
        self.targets = targets_of(manifest, tokenizer, cfg.text.normalization)
        self.dropped: list[Dropped] = []
        #: found too short only when the audio was read
        self.late: list[Dropped] = []
        #: seconds of computing features, by epoch (from 0), over all workers
        self.features_s: defaultdict[int, float] = defaultdict(float)
        self.kept: list[int] = []
        #: utterances whose labels fit at their own speed, but not at the fastest: never sped up
        self.unhurried: set[int] = set()
        self._num_steps = network.num_steps
        self._needed = self.targets.min_steps()
        self._filter(self._step_counts())
        self._cache: dict[tuple[int, float], Features] = {}
        self._cache_left = cfg.batch.feature_cache_mib * 2**20

    def _step_counts(self) -> npt.NDArray[np.int64]:
        """Output steps of every utterance at the fastest speed and at its own. Shapes: (2, utterances)."""
        rate = self.extractor.sample_rate_hz
        durations_s = np.array([u.duration_s for u in self.manifest])
        samples = [torch.from_numpy(np.floor(durations_s * rate / s).astype(np.int64)) for s in (self._fastest, 1.0)]
        return np.stack([self._num_steps(self.extractor.num_frames(n)).numpy() for n in samples])

    @property
    def _fastest(self) -> float:
        return max(1.0, *self.cfg.augment.speeds)

    def _filter(self, steps: npt.NDArray[np.int64]) -> None:
        longest_s = self.cfg.batch.max_utterance_s
        columns = (self.targets.lengths().tolist(), self._needed.tolist(), steps[0].tolist(), steps[1].tolist())
        for i, (utterance, length, needed, hurried, own) in enumerate(zip(self.manifest, *columns, strict=True)):
            if not length:
                self.dropped.append(Dropped(utterance.id, "empty text"))
            elif longest_s is not None and utterance.duration_s > longest_s:
                self.dropped.append(Dropped(utterance.id, f"{utterance.duration_s:.1f} s, longer than {longest_s:g} s"))
            elif needed > own:
                why = f"its {needed} label steps do not fit the {own} steps the model makes of its audio"
                self.dropped.append(Dropped(utterance.id, why))
            else:
                self.kept.append(i)
                if needed > hurried:
                    self.unhurried.add(i)
        if not self.kept:
            raise DataError(
                f"none of {len(self.manifest):,} utterances can be trained on; the first: "
                f"{self.dropped[0].id}: {self.dropped[0].why}",
                self.manifest.path,
            )

    def summary(self) -> list[str]:
        """What is kept and what is not, with the reasons and the first examples."""
        hours = sum(self.manifest.utterances[i].duration_s for i in self.kept) / 3600
        lines = [f"training on {len(self.kept):,} of {len(self.manifest):,} utterances, {hours:.2f} h"]
        lines += [f"left out {d.id}: {d.why}" for d in self.dropped[:10]]
        if len(self.dropped) > 10:
            lines.append(f"… and {len(self.dropped) - 10:,} more left out (dropped.jsonl has all)")
        if self.unhurried:
            some = ", ".join(self.manifest.utterances[i].id for i in sorted(self.unhurried)[:5])
            lines.append(f"{len(self.unhurried)} never sped up, as their labels would not fit: {some}")
        return lines

    def plan(self, epoch: int, max_batch_s: float | None = None) -> list[Planned]:
        """The batches of an epoch (from 0), in order.

        Utterances of like duration go together (each duration moved by up to 5 %, so that batches differ between
        epochs); the order of batches is shuffled, but in a SortaGrad first epoch it rises.

        Args:
            max_batch_s: in place of the one of this object.
        """
        max_batch_s = max_batch_s or self.max_batch_s
        seed, batch = self.cfg.train.seed, self.cfg.batch
        rows = np.array(self.kept)
        speeds = np.array([self._speed(i, epoch) for i in self.kept])
        durations_s = np.array([self.manifest.utterances[i].duration_s for i in self.kept]) / speeds
        random = generator(seed, "plan", epoch)
        in_order = self.cfg.train.sortagrad and epoch == 0
        moved_s = durations_s if in_order else durations_s * random.uniform(0.95, 1.05, len(rows))
        order = np.argsort(moved_s, kind="stable")
        batches: list[list[int]] = [[]]
        longest_s = 0.0
        for at in order:
            longest_s = max(longest_s, durations_s[at])
            size = len(batches[-1]) + 1
            if batches[-1] and (size > batch.max_utterances or size * longest_s > max_batch_s):
                batches.append([])
                longest_s = durations_s[at]
            batches[-1].append(int(at))
        if not in_order:
            random.shuffle(batches)
        return [Planned(tuple((int(rows[at]), float(speeds[at])) for at in one), epoch) for one in batches]

    def own(self, planned: Planned) -> Planned:
        """The part of a batch that is loaded here: all parts have about as many seconds, the first perhaps more."""
        part, parts = self.share
        if parts == 1:
            return planned
        seconds = [self.manifest.utterances[index].duration_s / speed for index, speed in planned.items]
        held_s, mine = [0.0] * parts, []
        for at in sorted(range(len(seconds)), key=lambda at: (-seconds[at], at)):  # the longest first
            least = min(range(parts), key=held_s.__getitem__)
            held_s[least] += seconds[at]
            if least == part:
                mine.append(at)
        return Planned(tuple(planned.items[at] for at in sorted(mine)), planned.epoch)

    def _speed(self, index: int, epoch: int) -> float:
        speeds = self.cfg.augment.speeds
        if len(speeds) == 1:
            return 1.0 if index in self.unhurried else speeds[0]
        drawn = stable_seed(self.cfg.train.seed, "speed", epoch, self.manifest.utterances[index].id) % len(speeds)
        return 1.0 if index in self.unhurried else speeds[drawn]

    def load(self, planned: Planned) -> Batch:
        """The planned batch, ready for the network (features augmented, targets padded).

        Raises:
            DataError: an audio file cannot be used; or none of the batch is as long as its manifest row says.
        """
        features, twins, items = [], [], []
        self._read_ahead(planned)
        for index, speed in planned.items:
            if self.manifest.utterances[index].id in self.too_large:
                continue
            one_tf = self._features(index, speed, planned.epoch)
            if speed != 1.0 and not self._fits(index, len(one_tf)):
                speed = 1.0
                one_tf = self._features(index, speed, planned.epoch)
            if not self._fits(index, len(one_tf)):
                self._drop_late(index)
                continue
            items.append((index, speed))
            features.append(self._view(one_tf, index, planned.epoch))
            if self.cfg.train.consistency:
                twins.append(self._view(one_tf, index, planned.epoch, "twin"))
        utterances = self.manifest.utterances
        if not items and (self.share[1] > 1 or self.too_large):
            return empty_batch(self.extractor.num_bins)
        if not items:
            names = ", ".join(utterances[index].id for index, _ in planned.items)
            raise DataError(
                f"a whole batch is too short for its labels ({names}): correct duration_s", self.manifest.path
            )
        features_btf, num_frames_b = pad(features)
        targets = [self.targets[index] for index, _ in items]
        num_targets_b = torch.tensor([len(t) for t in targets])
        targets_bu = torch.zeros(len(targets), int(num_targets_b.max()), dtype=torch.int64)
        for i, one in enumerate(targets):
            targets_bu[i, : len(one)] = torch.tensor(one)
        ids = tuple(utterances[index].id for index, _ in items)
        duration_s = sum(utterances[index].duration_s / speed for index, speed in items)
        twin_btf = pad(twins)[0] if twins else None
        return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, ids, duration_s, twin_btf)

    def _view(self, one_tf: Features, index: int, epoch: int, *which: str) -> Features:
        """Features as the network sees them in this epoch: warped and masked. Shapes: (t, f) -> (t, f)."""
        seed, spec, id_ = self.cfg.train.seed, self.cfg.augment.spec, self.manifest.utterances[index].id
        if self._centres_hz is not None:
            factor = 1 + self.cfg.augment.warp * generator(seed, "warp", epoch, id_, *which).uniform(-1, 1)
            one_tf = warp_frequencies(one_tf, factor, self._centres_hz)
        if spec.freq_masks or spec.time_masks:
            one_tf = spec_augment(one_tf, spec, self.cfg.features.hop_s, generator(seed, "spec", epoch, id_, *which))
        return one_tf

    def _fits(self, index: int, num_frames: int) -> bool:
        """Whether the labels fit the frames there really are; the filter had only the manifest's rounded duration."""
        return int(self._needed[index]) <= int(self._num_steps(torch.tensor([num_frames]))[0])

    def _drop_late(self, index: int) -> None:
        id_ = self.manifest.utterances[index].id
        if all(d.id != id_ for d in self.late):
            self.late.append(Dropped(id_, f"its {self._needed[index]} label steps do not fit its audio after all"))
            log.warning("left out %s: %s", id_, self.late[-1].why)

    def _read_ahead(self, planned: Planned) -> None:
        missing = [index for index, speed in planned.items if (index, speed) not in self._cache]
        shards.read_ahead(self.manifest.audio_path(self.manifest.utterances[index]) for index in missing)

    def drop_large(self, id_: str, why: str) -> None:
        """Leaves an utterance out from now on: alone it does not fit into memory."""
        self.too_large.add(id_)
        self.late.append(Dropped(id_, why))
        log.warning("left out %s: %s", id_, why)

    def _features(self, index: int, speed: float, epoch: int) -> Features:
        cached = self._cache.get((index, speed))
        if cached is not None:
            return cached
        began = time.perf_counter()
        utterance = self.manifest.utterances[index]
        rate = self.cfg.audio.sample_rate_hz
        wave_n = load_wave(self.manifest, utterance, rate, self.cfg.audio.resample, self.said_hz)
        if speed != 1.0:
            wave_n = audio.change_speed(wave_n, speed, rate)
        if self._distort.active:
            wave_n = self._distort(wave_n, generator(self.cfg.train.seed, "distort", epoch, utterance.id))
        dither = self.cfg.features.dither > 0
        seed = stable_seed(self.cfg.train.seed, "dither", epoch, utterance.id) if dither else None
        features_tf = extract(self.extractor, wave_n, seed)
        if not dither and not self._distort.active and self._cache_left >= features_tf.nbytes:
            self._cache_left -= features_tf.nbytes
            self._cache[index, speed] = features_tf
        self.features_s[epoch] += time.perf_counter() - began
        return features_tf

    def fit_normalization(self) -> None:
        """Sets the extractor's corpus statistics from all kept utterances, in order."""
        sums_f = torch.zeros(self.extractor.num_bins, dtype=torch.float64)
        squares_f, frames = sums_f.clone(), 0
        for index in self.kept:
            utterance = self.manifest.utterances[index]
            wave_n = load_wave(self.manifest, utterance, self.cfg.audio.sample_rate_hz, self.cfg.audio.resample)
            raw_btf, _ = self.extractor.raw(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]))
            sums_f += raw_btf[0].double().sum(0)
            squares_f += raw_btf[0].double().square().sum(0)
            frames += raw_btf.shape[1]
        self.extractor.fit(sums_f, squares_f, frames)

    def batches(self, plan: Sequence[Planned]) -> Generator[Batch, None, None]:
        """The planned batches in order, loaded ahead by worker threads."""
        workers = self.cfg.batch.workers
        if workers == 0:
            for planned in map(self.own, plan):
                # As a worker does it: a matrix product over several threads rounds otherwise in the last bit.
                threads = torch.get_num_threads()
                torch.set_num_threads(1)
                try:
                    batch = self.load(planned)
                finally:
                    torch.set_num_threads(threads)
                yield batch
            return
        # Torch's thread count is a thread's own: a worker must not take the cores of the network.
        pool = ThreadPoolExecutor(workers, "asr-data", initializer=torch.set_num_threads, initargs=(1,))
        ahead: deque[Future[Batch]] = deque()
        try:
            for planned in map(self.own, plan):
                ahead.append(pool.submit(self.load, planned))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _centres_hz(cfg: RunConfig, bins: int) -> npt.NDArray[np.float64]:
    """The frequency of each value of a frame, for ``augment.warp``. Shapes: (f,).

    Raises:
        ConfigError: values of a frame are not all bins of a spectrum.
    """
    features = cfg.features
    if features.kind == "mfcc" or features.deltas or features.context_frames:
        what = "mfcc" if features.kind == "mfcc" else "deltas" if features.deltas else "context_frames"
        raise ConfigError(
            f"augment.warp needs log_mel or spectrogram frames alone, not features with {what}: set augment.warp=0",
            key="augment.warp",
        )
    return bin_centres_hz(features, cfg.audio.sample_rate_hz, bins)


def padding_fraction(plan: Sequence[Planned], manifest: Manifest) -> float:
    """The share of a plan's frames that is padding."""
    total = real = 0.0
    for planned in plan:
        durations_s = [manifest.utterances[i].duration_s / speed for i, speed in planned.items]
        total += max(durations_s) * len(durations_s)
        real += sum(durations_s)
    return 1 - real / total
