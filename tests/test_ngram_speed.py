"""How fast models load, beside kenlm on the same files, and in how much memory. Minutes: run with ``-m slow -s``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.lm import ngram

pytestmark = pytest.mark.slow

#: a process of its own for every measurement: what it loads, the best of some times, what that adds to the process
MEASURE = """
import gc, json, os, sys, time
kind, path, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "kenlm":
    import kenlm
    config = kenlm.Config()
    config.show_progress = False
    def load(path):
        return kenlm.Model(path, config)
else:
    from asr.lm import ngram
    ngram.parse_arpa(open(sys.argv[4], "rb").read(), "tiny")  # compiled, or from the cache
    load = ngram.load
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, best = resident(), 1e9
for _ in range(times):
    model = None
    start = time.perf_counter()
    model = load(path)
    best = min(best, time.perf_counter() - start)
print(json.dumps({"s": best, "bytes": resident() - before}))
"""


def measure(kind: str, path: Path, times: int, tiny: Path) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, kind, str(path), str(times), str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def zipf_lines(num_words: int, num_lines: int, words_a_line: int) -> list[str]:
    """Sentences of which about every second word pair is one of few: as many n-grams as a text of this length has."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.25, num_lines * words_a_line), num_words - 1)
    ids[1::2] = np.where(rng.random(len(ids[1::2])) < 0.5, ids[::2] * 7 % num_words, ids[1::2])
    words = np.array([f"word{i:x}" for i in range(num_words)])[ids]
    return [" ".join(row) for row in words.reshape(num_lines, words_a_line).tolist()]


@pytest.mark.parametrize(
    ("num_words", "num_lines", "wanted", "limit_s"),
    [(20_000, 36_000, 300_000, 0.02), (200_000, 1_000_000, 5_000_000, 0.2)],
    ids=["300,000", "5,000,000"],
)
def test_loading_is_faster_than_kenlms(num_words, num_lines, wanted, limit_s, tmp_path):
    pytest.importorskip("kenlm", reason="kenlm is not installed (pip install kenlm; test-only)")
    model = ngram.train(zipf_lines(num_words, num_lines, 10), 3)
    ngram.write(model, tmp_path / "m.arpa")
    ngram.write(model, tmp_path / "m.bin")
    ngram.write(ngram.train(["a b c"], 3), tmp_path / "tiny.arpa")
    found = {}
    for name, kind, file in (("kenlm", "kenlm", "m.arpa"), ("arpa", "asr", "m.arpa"), ("binary", "asr", "m.bin")):
        found[name] = measure(kind, tmp_path / file, 5, tmp_path / "tiny.arpa")
    print(
        f"\n{sum(model.counts):,} n-grams {model.counts}, {(tmp_path / 'm.arpa').stat().st_size / 1e6:.1f} MB of ARPA"
    )
    for name, values in found.items():
        print(f"  {name:7} {values['s'] * 1000:8.1f} ms  {values['bytes'] / 1e6:7.1f} MB resident")
    assert 0.8 * wanted < sum(model.counts) < 1.3 * wanted
    assert found["arpa"]["s"] < found["kenlm"]["s"]
    assert found["binary"]["s"] < limit_s
    assert found["arpa"]["bytes"] < 2.5 * found["kenlm"]["bytes"]
