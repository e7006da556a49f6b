"""The training set: which utterances are trained on, in which order, in which batches.

Axes: b batch, t frames, f bins, r rows, u targets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.ahead import ahead
from asr.batch import Batch, empty_batch, pad
from asr.config import RunConfig
from asr.data.manifest import Manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import ConfigError, DataError
from asr.features.extractor import Extractor
from asr.machine import is_out_of_memory, usable_cores
from asr.model.trainable import TrainableNetwork
from asr.runtime import generator, stable_seed
from asr.training.feature_loader import FeatureLoader
from asr.training.labels import Labels
from asr.training.plan import BatchPlan, Row, into_batches, join_rows

log = logging.getLogger(__name__)

#: the most that batch.workers may be
_MOST_WORKERS = 64
#: batches that are loaded ahead have at most this many bytes of features together
_AHEAD_BYTES = 2**31


@dataclass(frozen=True)
class Dropped:
    """An utterance that is left out of training, and the reason."""

    id: str
    why: str


class TrainingData:
    """The training set: filtered once, planned each epoch, loaded by worker threads, features kept in memory.

    Everything random depends on (seed, epoch, utterance id) alone.

    Args:
        part: which part of each batch this process loads, from 0.
        num_parts: number of parts that each batch is split into, one per process.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        extractor: Extractor,
        network: TrainableNetwork,
        cfg: RunConfig,
        part: int = 0,
        num_parts: int = 1,
    ) -> None:
        self.manifest = manifest
        self.extractor = extractor
        self.cfg = cfg
        self.part = part
        self.num_parts = num_parts
        #: decides the plans; for ``batch.max_batch_s: auto`` the number found
        self.max_batch_s = math.inf if cfg.batch.max_batch_s == "auto" else cfg.batch.max_batch_s
        #: threads that load batches ahead
        self.workers = 1 if cfg.batch.workers is None else cfg.batch.workers
        #: batches are in pinned memory, for a GPU
        self.is_pinned = False
        self.loader = FeatureLoader(manifest, extractor, cfg)
        self.labels = Labels(manifest, tokenizer, cfg)
        self._num_steps = network.num_steps

        #: places of the utterances that are trained on
        self.kept: list[int] = []
        #: those of them whose labels do not fit at the fastest speed: they are never sped up
        self.unhurried: set[int] = set()
        self.dropped: list[Dropped] = []
        #: utterances left out after the start: their audio is too short for their labels, or does not fit into memory
        self.late: list[Dropped] = []
        #: ids of utterances, or of joined ones, that do not fit into memory alone
        self.too_large: set[str] = set()
        self._filter()

    def load_for(self, device: torch.device, local_size: int) -> None:
        """Load batches from now on for a device that is used by one of so many processes on this machine.

        A core reads some 4,000 seconds of audio and makes their features in a second: one starves any GPU. Where they
        come from a published network, it is some 10 seconds.
        """
        self.is_pinned = device.type == "cuda"
        if self.cfg.batch.workers is None and (device.type == "cuda" or self.cfg.features.kind == "hf"):
            self.workers = max(1, min(usable_cores() // local_size, _MOST_WORKERS))

    @property
    def longest_s(self) -> float:
        """Seconds of the longest utterance that can be trained on, at the slowest speed; joined ones count as one."""
        joined, alone_s = self.cfg.augment.joined, self.longest_alone_s / min(1.0, *self.cfg.augment.speeds)
        if not joined.share:
            return alone_s
        most_s = joined.most * alone_s + (joined.most - 1) * joined.pause_s[1]
        return max(alone_s, min(most_s, self._longest_joined_s))

    @property
    def longest_alone_s(self) -> float:
        """Seconds of the longest utterance that is trained on, at its own speed."""
        return max(self.manifest.utterances[i].duration_s for i in self.kept)

    @property
    def _longest_joined_s(self) -> float:
        """The most seconds that joined utterances may have in all."""
        return math.inf if self.cfg.batch.max_utterance_s is None else self.cfg.batch.max_utterance_s

    def longest_of(self, epoch: int) -> float:
        """Return the seconds of the longest utterance of an epoch: of one at its own speed, or of joined ones."""
        if not self.cfg.augment.joined.share:
            return self.longest_alone_s
        joined_s = (self._row_s(row) for batch in self.plan(epoch) for row in batch.rows if len(row.parts) > 1)
        return max([self.longest_alone_s, *joined_s])

    def _filter(self) -> None:
        longest_s = self.cfg.batch.max_utterance_s
        steps_hurried, steps_own = self._step_counts()
        lengths = self.labels.alone.lengths().tolist()
        rows = zip(self.manifest, lengths, self.labels.needed_alone.tolist(), steps_hurried, steps_own, strict=True)
        for i, (utterance, length, needed, hurried, own) in enumerate(rows):
            if not length:
                why = "empty text"
            elif longest_s is not None and utterance.duration_s > longest_s:
                why = f"{utterance.duration_s:.1f} s, longer than {longest_s:g} s"
            elif needed > own:
                why = f"its {needed} label steps do not fit the {own} steps the model makes of its audio"
            else:
                self.kept.append(i)
                if needed > hurried:
                    self.unhurried.add(i)
                continue

            self.dropped.append(Dropped(utterance.id, why))

        if not self.kept:
            first = self.dropped[0]
            raise DataError(
                f"none of {len(self.manifest):,} utterances can be trained on; the first: {first.id}: {first.why}",
                self.manifest.path,
            )

    def _step_counts(self) -> tuple[list[int], list[int]]:
        """Return the output steps of every utterance, at the fastest speed and at its own.

        Durations have four decimals. At its own speed an utterance gets the benefit of the doubt: whether it fits is
        checked again when the audio is loaded.
        """
        samples_n = np.array([u.duration_s for u in self.manifest]) * self.extractor.sample_rate_hz
        slack = 0.5e-4 * self.extractor.sample_rate_hz + 1e-6
        fastest = max(1.0, *self.cfg.augment.speeds)

        return self._count_steps(samples_n / fastest), self._count_steps(samples_n + slack)

    def _count_steps(self, samples_r: npt.NDArray[np.float64]) -> list[int]:
        """Return the output steps that the network makes of so many samples each."""
        num_frames = self.extractor.num_frames(np.floor(samples_r).astype(np.int64))
        return self._num_steps(torch.from_numpy(num_frames)).tolist()

    def summary(self) -> list[str]:
        """Return lines on what is kept and what is left out, with the reasons and the first examples."""
        hours = sum(self.manifest.utterances[i].duration_s for i in self.kept) / 3600
        lines = [f"training on {len(self.kept):,} of {len(self.manifest):,} utterances, {hours:.2f} h"]
        lines += [f"left out {d.id}: {d.why}" for d in self.dropped[:10]]
        if len(self.dropped) > 10:
            lines.append(f"… and {len(self.dropped) - 10:,} more left out (dropped.jsonl has all)")
        if self.unhurried:
            some = ", ".join(self.manifest.utterances[i].id for i in sorted(self.unhurried)[:5])
            lines.append(f"{len(self.unhurried)} never sped up, as their labels would not fit: {some}")
        return lines

    def plan(self, epoch: int, max_batch_s: float | None = None) -> list[BatchPlan]:
        """Return the batches of an epoch (from 0), in order.

        Utterances of similar duration go together. Each duration is moved by up to 5 %, so that batches differ between
        epochs. The order of batches is shuffled, except in a SortaGrad first epoch, where durations rise.

        Args:
            max_batch_s: replaces the limit of this object.
        """
        limit_s = max_batch_s or self.max_batch_s
        random = generator(self.cfg.train.seed, "plan", epoch)
        is_sorted = self.cfg.train.sortagrad and epoch == 0

        rows = self._rows(epoch)
        durations_s = np.array([self._row_s(row) for row in rows])
        moved_s = durations_s
        if not is_sorted:
            moved_s = durations_s * random.uniform(0.95, 1.05, len(durations_s))

        order = np.argsort(moved_s, kind="stable").tolist()
        batches = [
            [rows[place] for place in places]
            for places in into_batches(order, durations_s.tolist(), self.cfg.batch.max_utterances, limit_s)
        ]
        if not is_sorted:
            random.shuffle(batches)
        return [BatchPlan(tuple(batch), epoch) for batch in batches]

    def _rows(self, epoch: int) -> list[Row]:
        """Return what the network takes as one utterance each in an epoch."""
        rows = [Row.alone((i, self._speed(i, epoch))) for i in self.kept]
        cfg = self.cfg.augment.joined
        if not cfg.share:
            return rows
        random = generator(self.cfg.train.seed, "join", epoch)
        alone, joined = join_rows(rows, [self._row_s(row) for row in rows], cfg, self._longest_joined_s, random)
        return alone + self._fitting(joined)

    def _fitting(self, joined: list[Row]) -> list[Row]:
        """Put utterances back alone if their labels, with the separators between them, do not fit when joined."""
        samples_r = np.array([self._row_s(row) for row in joined]) * self.extractor.sample_rate_hz
        steps_r = self._count_steps(samples_r)
        # A step for each is left over, as durations are rounded.
        fitting: list[Row] = []
        for row, steps in zip(joined, steps_r, strict=True):
            fits = self.labels.most_needed(row) + len(row.parts) <= steps
            fitting += [row] if fits else map(Row.alone, row.parts)
        return fitting

    def _speed(self, index: int, epoch: int) -> float:
        if index in self.unhurried:
            return 1.0
        speeds = self.cfg.augment.speeds
        if len(speeds) == 1:
            return speeds[0]
        seed = stable_seed(self.cfg.train.seed, "speed", epoch, self.manifest.utterances[index].id)
        return speeds[seed % len(speeds)]

    def _row_s(self, row: Row) -> float:
        return sum(self.manifest.utterances[i].duration_s / speed for i, speed in row.parts) + sum(row.pauses_s)

    def _durations_s(self, batch: BatchPlan) -> list[float]:
        return [self._row_s(row) for row in batch.rows]

    def padded_s(self, batch: BatchPlan) -> float:
        """Return the seconds of a batch, padding included."""
        durations_s = self._durations_s(batch)
        return len(durations_s) * max(durations_s, default=0.0)

    def padding_fraction(self, plan: Sequence[BatchPlan]) -> float:
        """Return the share of a plan's seconds that is padding."""
        padded_s = sum(self.padded_s(batch) for batch in plan)
        return 1 - sum(sum(self._durations_s(batch)) for batch in plan) / padded_s

    def largest_s(self, max_batch_s: float) -> float:
        """Return the most seconds, padding included, that this process's part of a batch of any epoch can have."""
        most_s = min(max_batch_s, min(self.cfg.batch.max_utterances, len(self.kept)) * self.longest_s)
        return max(self.longest_s, most_s / self.num_parts)

    def own_part(self, batch: BatchPlan) -> BatchPlan:
        """Return the part of a batch that this process loads. All parts have about as many seconds."""
        if self.num_parts == 1:
            return batch

        durations_s = self._durations_s(batch)
        longest_first = sorted(range(len(durations_s)), key=lambda place: (-durations_s[place], place))
        seconds_of_part = [0.0] * self.num_parts
        own = []
        for place in longest_first:
            part = min(range(self.num_parts), key=seconds_of_part.__getitem__)
            seconds_of_part[part] += durations_s[place]
            if part == self.part:
                own.append(place)

        return BatchPlan(tuple(batch.rows[place] for place in sorted(own)), batch.epoch)

    def load(self, plan: BatchPlan) -> Batch:
        """Load a batch: features are computed, augmented and padded. Utterances that cannot be used are left out.

        Raises:
            DataError: an audio file cannot be used.
        """
        features, second_views, rows = [], [], []
        self.loader.read_ahead(plan.rows)
        too_large = {i for i, _ in plan.items if self.manifest.utterances[i].id in self.too_large}

        for planned in plan.rows:
            row = planned.without(too_large)
            if not row.parts or row.name(self.manifest) in self.too_large:
                continue

            row_tf = self.loader.features(row, plan.epoch)
            if row != row.at_own_speeds() and not self._fits(row, len(row_tf)):
                row = row.at_own_speeds()
                row_tf = self.loader.features(row, plan.epoch)
            if not self._fits(row, len(row_tf)):
                self._drop_late(row)
                continue

            rows.append(row)
            features.append(self.loader.augment(row_tf, row, plan.epoch))
            if self.cfg.train.consistency:
                second_views.append(self.loader.augment(row_tf, row, plan.epoch, "twin"))

        if not rows:
            return empty_batch(self.extractor.num_bins)

        features_btf, num_frames_b = pad(features)
        twin_btf = pad(second_views)[0] if second_views else None
        return self._batch(BatchPlan(tuple(rows), plan.epoch), features_btf, num_frames_b, twin_btf)

    def zeros(self, plan: BatchPlan) -> Batch:
        """Return a batch of the shape of a planned one, without reading anything."""
        # With fewer utterances than processes, this process has none: it takes that of another one.
        plan = plan if plan.rows else BatchPlan.alone([(self.kept[0], 1.0)], 0)
        samples_b = np.round(np.array(self._durations_s(plan)) * self.extractor.sample_rate_hz).astype(np.int64)
        num_frames_b = torch.from_numpy(self.extractor.num_frames(samples_b))
        features_btf = torch.zeros(len(samples_b), int(num_frames_b.max()), self.extractor.num_bins)
        return self._batch(plan, features_btf, num_frames_b, features_btf if self.cfg.train.consistency else None)

    def _batch(self, plan: BatchPlan, features_btf: Tensor, num_frames_b: Tensor, twin_btf: Tensor | None) -> Batch:
        """Put the targets to the features."""
        targets = [self.labels.of(row) for row in plan.rows]
        num_targets_b = torch.tensor([len(ids) for ids in targets])
        targets_bu = torch.zeros(len(targets), int(num_targets_b.max()), dtype=torch.int64)
        for row, ids in enumerate(targets):
            targets_bu[row, : len(ids)] = torch.tensor(ids)
        names = tuple(row.name(self.manifest) for row in plan.rows)
        duration_s = sum(self._durations_s(plan))
        return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, names, duration_s, twin_btf)

    def _fits(self, row: Row, num_frames: int) -> bool:
        """Check whether the labels fit the frames there really are; the manifest has only a rounded duration."""
        return self.labels.needed(row) <= int(self._num_steps(torch.tensor([num_frames]))[0])

    def _drop_late(self, row: Row) -> None:
        id_ = row.name(self.manifest)
        if all(dropped.id != id_ for dropped in self.late):
            self._drop(id_, f"its {self.labels.needed(row)} label steps do not fit its audio after all")

    def drop_large(self, id_: str) -> None:
        """Leave out an utterance that does not fit into memory, even alone."""
        self.too_large.add(id_)
        self._drop(id_, "it does not fit into memory, even alone")

    def _drop(self, id_: str, why: str) -> None:
        self.late.append(Dropped(id_, why))
        log.warning("left out %s: %s", id_, why)

    def batches(self, plan: Sequence[BatchPlan]) -> Generator[Batch, None, None]:
        """Yield the planned batches in order, loaded ahead by worker threads.

        Raises:
            ConfigError: no memory can be pinned for them.
            DataError: an audio file cannot be used.
        """
        load = self._load_pinned if self.workers else self._load_on_one_thread
        jobs = ((1.0, partial(load, self.own_part(each))) for each in plan)
        yield from ahead(jobs, self.workers, 1 + self._num_ahead())

    def _num_ahead(self) -> int:
        """Return how many batches are loaded ahead: two per worker, unless they would fill the memory."""
        views = 2 if self.cfg.train.consistency else 1
        most_frames = self.largest_s(self.max_batch_s) / self.extractor.hop_s
        largest_bytes = views * most_frames * self.extractor.num_bins * torch.float32.itemsize
        return max(1, min(2 * self.workers, int(_AHEAD_BYTES / largest_bytes)))

    def _load_on_one_thread(self, plan: BatchPlan) -> Batch:
        """Load as a worker does: over several threads, a matrix product is rounded differently in its last bit."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._load_pinned(plan)
        finally:
            torch.set_num_threads(threads)

    def _load_pinned(self, plan: BatchPlan) -> Batch:
        batch = self.load(plan)
        if not self.is_pinned:
            return batch
        try:
            return batch.pinned()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                f"no memory can be pinned for batches that wait for a GPU; set batch.workers below {self.workers}",
                key="batch.workers",
            ) from error
