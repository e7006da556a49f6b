"""The benchmarks of alignment and features, in short: what they measure is the work they name."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import align, features
from benchmarks.emissions import synthetic
from benchmarks.turns import by_turns, ratio
from tests.reference.ctc_paths import collapse

TEXTS = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS AWAY INTO THE WOODS BEHIND THE OLD MILL AT THE RIVER"
] * 2


def test_a_recording_has_the_text_of_its_utterances_in_one_piece():
    log_probs_sv, token_u = align.recording(synthetic(TEXTS, 0), 1200)
    assert len(log_probs_sv) == 1500 and len(token_u) == 3 * len(TEXTS[0]) + 2
    assert collapse(align.ours()(log_probs_sv, token_u).tolist()) == tuple(token_u.tolist())


def test_aligners_that_are_not_there_or_need_too_much_are_named(capsys, monkeypatch):
    def missing() -> align.Align:
        raise ImportError("no such package")

    monkeypatch.setattr(
        align,
        "ALIGNERS",
        {
            align.OURS: align.ALIGNERS[align.OURS],
            "absent": align.Aligner("absent", "", missing),
            "large": align.Aligner("large", "", missing, bytes_per_cell=1.0),
            "short": align.Aligner("short", "", missing, most_cells=2**31),
        },
    )
    assert list(align.present(100_000, 25_000, 1.5)) == [align.OURS]
    said = capsys.readouterr().err
    assert "absent is left out: no such package" in said
    assert "large is left out: 100,000 steps would take 5.0 GB" in said
    assert "short is left out: 100,000 steps are more than it can count" in said


def test_every_way_is_run_in_every_round():
    runs = {"one": 0, "two": 0}

    def way(name: str, work: int):
        def run() -> None:
            runs[name] += 1
            np.linalg.svd(np.ones((work, work)))

        return run

    seconds = by_turns({"one": way("one", 100), "two": way("two", 300)}, 3)
    assert [len(times) for times in seconds.values()] == [3, 3] and min(runs.values()) > 3
    assert ratio(seconds, "two", "one") > 1


def test_front_ends_make_the_same_features(torchaudio):
    (wave_n,) = features.waves_of(1, 1.0)
    assert np.asarray(features.ours()(wave_n)).shape == (101, features.BINS)
    # both round at 1e-7 of a frame's largest bin, and the smallest ones are a thousandth of it
    assert features.difference_to_torchaudio(wave_n) < 1e-3
    rows = features.measure([wave_n], 1)
    assert rows[0][0] == features.OURS and rows[0][2] == "1.00" and len(rows) >= 3


@pytest.mark.parametrize("module", [align, features])
def test_a_benchmark_says_how_it_is_run(module):
    assert f"python -m {module.__name__}" in module.__doc__
