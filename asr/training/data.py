"""The training set: what is trained on, in which order, in which batches.

Axes: b batch, t frames, f bins, u targets.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from asr.batch import Batch, empty_batch, pad
from asr.config import RunConfig
from asr.data.manifest import Manifest
from asr.data.targets import targets_of
from asr.data.tokenizer import Tokenizer
from asr.errors import DataError
from asr.features import FeatureExtractor
from asr.model.network import Network
from asr.runtime import generator, stable_seed
from asr.training.views import Views

log = logging.getLogger(__name__)


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
        self.views = Views(manifest, extractor, cfg)
        self.targets = targets_of(manifest, tokenizer, cfg.text.normalization)
        self.dropped: list[Dropped] = []
        #: found too short only when the audio was read
        self.late: list[Dropped] = []
        self.kept: list[int] = []
        #: utterances whose labels fit at their own speed, but not at the fastest: never sped up
        self.unhurried: set[int] = set()
        self._num_steps = network.num_steps
        self._needed = self.targets.min_steps()
        self._filter(self._step_counts())

    def _step_counts(self) -> npt.NDArray[np.int64]:
        """Output steps of every utterance at the fastest speed and at its own. Shapes: (2, utterances).

        Durations have four decimals: at its own speed rather a sample too many than an utterance that fits left out, as
        what is loaded is counted exactly.
        """
        samples_n = np.array([u.duration_s for u in self.manifest]) * self.extractor.sample_rate_hz
        slack = 0.5e-4 * self.extractor.sample_rate_hz + 1e-6
        both = [np.floor(n).astype(np.int64) for n in (samples_n / self._fastest, samples_n + slack)]
        return np.stack([self._num_steps(self.extractor.num_frames(torch.from_numpy(n))).numpy() for n in both])

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
        """The planned batch, ready for the network (features augmented, targets padded), of what of it can be used.

        Raises:
            DataError: an audio file cannot be used.
        """
        features, twins, items = [], [], []
        self.views.read_ahead(planned.items)
        for index, speed in planned.items:
            if self.manifest.utterances[index].id in self.too_large:
                continue
            one_tf = self.views.features(index, speed, planned.epoch)
            if speed != 1.0 and not self._fits(index, len(one_tf)):
                speed = 1.0
                one_tf = self.views.features(index, speed, planned.epoch)
            if not self._fits(index, len(one_tf)):
                self._drop_late(index)
                continue
            items.append((index, speed))
            features.append(self.views.view(one_tf, index, planned.epoch))
            if self.cfg.train.consistency:
                twins.append(self.views.view(one_tf, index, planned.epoch, "twin"))
        utterances = self.manifest.utterances
        if not items:
            return empty_batch(self.extractor.num_bins)
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

    def _fits(self, index: int, num_frames: int) -> bool:
        """Whether the labels fit the frames there really are; the filter had only the manifest's rounded duration."""
        return int(self._needed[index]) <= int(self._num_steps(torch.tensor([num_frames]))[0])

    def _drop_late(self, index: int) -> None:
        id_ = self.manifest.utterances[index].id
        if all(d.id != id_ for d in self.late):
            self.late.append(Dropped(id_, f"its {self._needed[index]} label steps do not fit its audio after all"))
            log.warning("left out %s: %s", id_, self.late[-1].why)

    def drop_large(self, id_: str, why: str) -> None:
        """Leaves an utterance out from now on: alone it does not fit into memory."""
        self.too_large.add(id_)
        self.late.append(Dropped(id_, why))
        log.warning("left out %s: %s", id_, why)

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


def padding_fraction(plan: Sequence[Planned], manifest: Manifest) -> float:
    """The share of a plan's frames that is padding."""
    total = real = 0.0
    for planned in plan:
        durations_s = [manifest.utterances[i].duration_s / speed for i, speed in planned.items]
        total += max(durations_s) * len(durations_s)
        real += sum(durations_s)
    return 1 - real / total
