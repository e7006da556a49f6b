"""Checks of speed: training steps of known shapes, ways to run recurrent layers, the norm's statistics.

Axes: b batch, s steps, i inputs, h units, g gates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from asr.config import RunConfig, load, override
from asr.corpora.catalogue import find_config
from asr.model.conv import step_mask
from asr.model.norm import InputNorm
from asr.model.recurrent import RecurrentLayer, reversal
from asr.runtime import DTYPES, autocast
from asr.training.trial import endless_batches
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.machine import distance
from benchmarks.gpu.profiling import milliseconds, profile_steps, spread
from benchmarks.gpu.running import Stepping, stepping
from benchmarks.gpu.speech import repeated_speech

#: what the paper's network must reach on an H100 or H200, seconds of audio per second
FLOOR = 5000.0


def paper_shape(setting: Setting, found: Findings) -> None:
    """Measure training of the paper's network: 5 x BiGRU 800, 64 utterances of 10 s."""
    settings = ["batch.max_utterances=64", "batch.max_batch_s=640", "batch.max_utterance_s=20"]
    if setting.quick:
        settings = ["model.layers=1", "model.hidden=16", "batch.max_utterances=4"]
    cfg = override(RunConfig(), settings)
    speed = _training(setting, found, cfg, seconds=1.0 if setting.quick else 10.0)
    if setting.cuda and torch.cuda.get_device_capability(setting.device) >= (9, 0) and not setting.quick:
        found.at_least("audio-s/s without loading", speed, FLOOR)


def an4_shape(setting: Setting, found: Findings) -> None:
    """Measure training of an4/default: 3 x BiGRU 320, 16 utterances of 2.5 s."""
    cfg = load(find_config("an4/default"), ["augment.speeds=[1.0]"])
    if setting.quick:
        cfg = override(cfg, ["model.layers=1", "model.hidden=16", "batch.max_utterances=4"])
    _training(setting, found, cfg, seconds=1.0 if setting.quick else 2.5)


def _training(setting: Setting, found: Findings, cfg: RunConfig, seconds: float) -> float:
    """Report the speed of training with and without loading, and where the time goes; return that without."""
    cfg = override(
        cfg,
        [
            f"train.device={setting.device}",
            f"train.precision={setting.best_precision}",
            f"train.threads={setting.threads}",
            "text.normalization=none",
            "batch.feature_cache_mib=0",
        ],
    )
    rows = cfg.batch.max_utterances * (4 if setting.quick else 60)
    folder = repeated_speech(setting.folder(f"rows-{seconds:g}-{rows}"), rows, seconds)
    step = stepping(setting, cfg, folder)
    found.note("parameters", step.learner.model.num_parameters)
    rate = _without_loading(setting, found, step)
    _where_time_goes(setting, found, step)
    _with_loading(setting, found, step)
    return rate


def _without_loading(setting: Setting, found: Findings, step: Stepping) -> float:
    turns, steps = (2, 1) if setting.quick else (5, 8)
    for _ in range(4):
        step()
    rates = []
    for _ in range(turns):
        setting.synchronize()
        audio_s = step.audio_s(steps)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        setting.synchronize()
        rates.append(audio_s / (time.perf_counter() - began))
    found.note("audio-s/s without loading", median(rates))
    found.note("audio-s/s without loading, lowest and highest", spread(rates))
    return median(rates)


def _where_time_goes(setting: Setting, found: Findings, step: Stepping) -> None:
    """Report memory, the host's time of a step, and the shares of its parts."""
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    whole_ms, host_ms = [], []
    for _ in range(2 if setting.quick else 6):
        setting.synchronize()
        began = time.perf_counter()
        step()
        host_ms.append(1000 * (time.perf_counter() - began))
        setting.synchronize()
        whole_ms.append(1000 * (time.perf_counter() - began))
    found.note("ms of a step", median(whole_ms))
    found.note("ms of a step until the host is free", median(host_ms))
    if setting.cuda:
        found.note("peak GiB", torch.cuda.max_memory_allocated(setting.device) / 2**30)
        found.note("peak GiB, with what the allocator holds", torch.cuda.max_memory_reserved(setting.device) / 2**30)

    seen = profile_steps(setting, step, 1 if setting.quick else 3)
    found.note("ms of a step by part", seen.parts_ms)
    if setting.cuda:
        found.note("shares of a step", seen.shares(median(whole_ms)))
        found.note("ms of a step in which a kernel runs", seen.busy_ms)
        found.note("kernels in a step", seen.kernels)
        found.note("waiting calls of the runtime in a step", seen.waits)
        found.note("recurrent kernels", seen.recurrent)
        found.note("longest kernels: ms and number in a step", seen.top)


def _with_loading(setting: Setting, found: Findings, step: Stepping) -> None:
    """Train on what the loader makes at that time, as training does; also measure the loader by itself."""
    learner = step.learner
    warm, steps = (1, 2) if setting.quick else (4, 40)
    with closing(endless_batches(learner)) as batches:
        step.batches = [next(batches)]
        for _ in range(warm):
            step.batches = [next(batches)]
            step()
        setting.synchronize()
        audio_s = 0.0
        began = time.perf_counter()
        for _ in range(steps):
            step.batches = [next(batches)]
            audio_s += step.audio_s(1)
            step()
            if time.perf_counter() - began > 15:
                break
        setting.synchronize()
        found.note("audio-s/s with loading", audio_s / (time.perf_counter() - began))

    with closing(learner.data.batches(learner.data.plan(2))) as loaded:
        began = time.perf_counter()
        audio_s = sum(batch.duration_s for batch in islice(loaded, 2 if setting.quick else 30))
        found.note("audio-s/s of the loader alone", audio_s / (time.perf_counter() - began))


# --- ways to run a recurrent layer ---


def recurrent_ways(setting: Setting, found: Findings) -> None:
    """Time a layer, forward and back: one direction, two in one call, two on two streams, and the layer of ``asr``.

    If two streams take as long as one direction, a kernel of our own could only win by being faster than cuDNN's.
    """
    batch, steps = (2, 6) if setting.quick else (64, 500)
    hiddens = (16,) if setting.quick else (320, 512, 800, 1024)
    precisions = [one for one in setting.precisions if one != "fp32"]
    for hidden in hiddens:
        for precision in precisions:
            autocast(precision, setting.device)  # sets, as before every pass, what cuDNN's kernels may use
            for cell, kind in (("gru", nn.GRU), ("lstm", nn.LSTM)):
                x_sbi = torch.randn(steps, batch, hidden, device=setting.device, dtype=DTYPES[precision])
                times = _times_of_ways(setting, kind, x_sbi.requires_grad_())
                times["asr's layer, with its norm"] = _time_of_layer(setting, cell, x_sbi, precision)
                found.note(f"{cell} {hidden}, {precision}, ms", times)

    if setting.cuda and not setting.quick:
        _tensor_cores_are_used(setting, found, torch.Size((steps, batch, 800)))


def _tensor_cores_are_used(setting: Setting, found: Findings, shape: torch.Size) -> None:
    """Compare a GRU in the narrow precision with one in float32: without tensor cores it would be no faster."""
    times = {}
    for precision in ("fp32", setting.best_precision):
        autocast(precision, setting.device)
        gru = nn.GRU(shape[2], shape[2]).to(setting.device, DTYPES[precision])
        x_sbi = torch.randn(shape, device=setting.device, dtype=DTYPES[precision], requires_grad=True)
        times[precision] = median(milliseconds(setting, lambda gru=gru, x=x_sbi: gru(x)[0].float().sum().backward()))
    found.note("gru 800 in one direction, ms", times)
    if setting.best_precision != "fp32":
        found.at_least("float32's time over the narrow precision's", times["fp32"] / times[setting.best_precision], 1.5)


def _times_of_ways(setting: Setting, kind: Callable[..., Any], x_sbi: Tensor) -> dict[str, Any]:
    steps, batch, hidden = x_sbi.shape
    place = {"device": setting.device, "dtype": x_sbi.dtype}
    one, other = kind(hidden, hidden, **place), kind(hidden, hidden, **place)
    both = kind(hidden, hidden, bidirectional=True, **place)
    lengths_b = torch.linspace(steps, steps // 2, batch).long()

    def back(out: Tensor) -> None:
        out.float().sum().backward()

    def packed() -> None:
        rows: PackedSequence = pack_padded_sequence(x_sbi, lengths_b)
        back(both(rows)[0].data)

    side = torch.cuda.Stream(setting.device) if setting.cuda else None

    def two_streams() -> None:
        if side is None:
            back(one(x_sbi)[0] + other(x_sbi)[0])
            return
        main = torch.cuda.current_stream(setting.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            second = other(x_sbi)[0]
        first = one(x_sbi)[0]
        main.wait_stream(side)
        back(first + second)

    ways: dict[str, Callable[[], None]] = {
        "one direction": lambda: back(one(x_sbi)[0]),
        "two in one call": lambda: back(both(x_sbi)[0]),
        "two in one call, packed": packed,
        "two on two streams": two_streams,
    }
    return {name: _attempted_ms(setting, work) for name, work in ways.items()}


def _time_of_layer(setting: Setting, cell: str, x_sbi: Tensor, precision: str) -> Any:
    """Time a bidirectional layer as the network runs it."""
    steps, batch, hidden = x_sbi.shape
    layer = RecurrentLayer(cell, hidden, hidden, bidirectional=True, merge="sum", norm=True).to(setting.device).train()
    num_b = torch.full((batch,), steps, device=setting.device)
    mask_bs, reversal_bs = step_mask(num_b, steps), reversal(num_b, steps)
    x_bsi = x_sbi.detach().float().transpose(0, 1).contiguous().requires_grad_()

    def work() -> None:
        with autocast(precision, setting.device):
            out = layer(x_bsi, mask_bs, reversal_bs)
        out.float().sum().backward()

    return _attempted_ms(setting, work)


def _attempted_ms(setting: Setting, work: Callable[[], Any]) -> Any:
    """Return the median time, or the error: cuDNN does not have every dtype on every GPU."""
    try:
        return median(milliseconds(setting, work, times=1 if setting.quick else 5, before=1 if setting.quick else 2))
    except RuntimeError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


# --- the norm's statistics ---


def norm_statistics(setting: Setting, found: Findings) -> None:
    """Compare the statistics of W x from the input's Gram matrix with those of the projection, by value and time."""
    from asr.model.cuda.norm import projection_norms

    steps, batch, size = (20, 4, 24) if setting.quick else (500, 64, 800)
    torch.manual_seed(1)
    norms = [InputNorm(3 * size).to(setting.device).train() for _ in range(2)]
    weights = [torch.randn(3 * size, size, device=setting.device) / size**0.5 for _ in range(2)]
    wide_sbi = torch.randn(steps, batch, size, device=setting.device).clamp(min=0)
    num_valid = torch.full((), steps * batch, device=setting.device)

    for precision in setting.precisions if setting.cuda else ["fp32"]:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        x_sbi = wide_sbi.to(dtype).requires_grad_()
        ws = [w.clone().requires_grad_() for w in weights]

        def by_gram() -> list[Tensor]:
            return [t for pair in projection_norms(norms, x_sbi, ws, num_valid) for t in pair]  # noqa: B023

        def by_projection() -> list[Tensor]:
            x, pairs = x_sbi, zip(norms, ws, strict=True)  # noqa: B023
            return [t for norm, w in pairs for t in norm.fold(x, w.to(x.dtype), num_valid)]

        exact = [t for norm, w in zip(norms, ws, strict=True) for t in _exact(norm, x_sbi, w)]
        # The weights in bf16 move a variance by 4e-3 at most; the Gram matrix keeps them in float32.
        for name, way, limit in (("Gram matrix", by_gram, 1e-4), ("projection", by_projection, 1e-1)):
            apart = max(distance(a, b) for a, b in zip(exact, way(), strict=True))
            found.at_most(f"{precision}, by the {name}: relative error", apart, limit)
            spent = milliseconds(setting, lambda: sum(t.square().sum() for t in way()).backward())  # type: ignore[union-attr]  # noqa: B023
            found.note(f"{precision}, by the {name}: ms, forward and back", median(spent))


def _exact(norm: InputNorm, x_sbi: Tensor, w_gi: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift from the projection in float64."""
    with torch.no_grad():
        projected_rg = F.linear(x_sbi.flatten(0, 1).double(), w_gi.double())
        return norm.scale_and_shift(projected_rg.mean(0), projected_rg.var(0, correction=0))
