"""Power spectra by matrix products are those of numpy's transform."""

from __future__ import annotations

import numpy as np
import pytest

from asr.recordings.transform import PowerSpectrum


@pytest.mark.parametrize("size", [64, 512, 1024, 1411, 2822, 706, 13])
@pytest.mark.parametrize("share", [(0.1, 0.9), (0.0, 1.0)])
def test_bins_are_those_of_float64s_transform(size, share):
    bins = slice(*(round(part * (size // 2 + 1)) for part in share))
    frames_tn = np.random.default_rng(size).normal(size=(7, size)).astype(np.float32)
    exact_tf = np.abs(np.fft.rfft(frames_tn.astype(np.float64))[:, bins]) ** 2
    ours_tf = PowerSpectrum(size, bins)(frames_tn)
    assert ours_tf.dtype == np.float32
    # sums of float32, of as many terms as a factor of the size has
    np.testing.assert_allclose(ours_tf, exact_tf, atol=3e-6 * exact_tf.max(), rtol=0)
