"""Time and memory of forced alignment beside other aligners: the same log-probabilities and text, in one run.

    pip install -r benchmarks/requirements-align.txt
    python -m benchmarks.align --text BOOKS.txt.gz

An aligner that is not installed is left out, and a line says so; so is one whose memory would exceed ``--most-gb``.
``--text`` is a text, one sentence per line; the default is the text in the folder that ASR_TEST_DATA names. The
recording is made of synthetic emissions of its lines (``benchmarks.emissions``), 500 steps each, or of the utterances
of a file that ``benchmarks.emissions`` made, over and over, in one piece of ``--steps``.

Times are processor time by turns. Memory is by how much a process grows at most while it aligns the recording, after it
has aligned a short one (each aligner in a process of its own; on Linux). All run on one thread. The path of each is
scored alike, in float64.

Axes: s steps, v vocabulary, u tokens.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from asr.decode.types import Ints, LogProbs
from asr.errors import AsrError, ConfigError
from benchmarks.emissions import BLURRED, Emissions, Noise, hold_out, load, read_text, synthetic
from benchmarks.turns import by_turns, machine, ratio, table, version_of

Align = Callable[[LogProbs, Ints], np.ndarray]
OURS = "this project"
SYNTHETIC = {"synthetic": Noise(), "blurred": BLURRED}
#: steps that a process aligns before its memory is measured: all code is loaded then
_SHORT = 8_000


def ours() -> Align:
    """Return the aligner of this project: the token at each step."""
    from asr.alignment.forced import force_align

    return lambda log_probs_sv, token_u: force_align(log_probs_sv, token_u.tolist()).path_s


def torchaudio() -> Align:
    """Return torchaudio's."""
    import torch
    from torchaudio.functional import forced_align

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # it announces its own removal
    return lambda log_probs_sv, token_u: forced_align(
        torch.from_numpy(log_probs_sv)[None], torch.from_numpy(token_u)[None]
    )[0][0].numpy()


def ctc_forced_aligner() -> Align:
    """Return that of ctc-forced-aligner, in C++."""
    from ctc_forced_aligner.ctc_aligner import align_sequences

    return lambda log_probs_sv, token_u: align_sequences(log_probs_sv[None], token_u[None].astype(np.int64), 0)[0][0]


def hirschberg(name: str) -> Callable[[], Align]:
    """Return one of hirschberg-viterbi's, in C++."""

    def make() -> Align:
        import hirschberg_viterbi
        import torch

        torch.set_num_threads(1)
        align = getattr(hirschberg_viterbi, name)
        return lambda log_probs_sv, token_u: align(
            torch.from_numpy(log_probs_sv)[None], torch.from_numpy(token_u)[None]
        )[0][0].numpy()

    return make


@dataclass(frozen=True)
class Aligner:
    """An aligner to measure."""

    package: str
    what: str
    make: Callable[[], Align]
    #: of each step and state of the text
    bytes_per_cell: float = 0.0
    #: the most steps times states that it takes
    most_cells: float = math.inf


ALIGNERS = {
    OURS: Aligner("asr-ctc", "exact", ours),
    "pruned": Aligner(
        "hirschberg-viterbi", "`pruned_hirschberg_viterbi`, approximate", hirschberg("pruned_hirschberg_viterbi")
    ),
    "hirschberg": Aligner("hirschberg-viterbi", "`hirschberg_viterbi`, exact", hirschberg("hirschberg_viterbi")),
    # It counts in 32 bits; beyond them it ends the process.
    "ctc-forced-aligner": Aligner("ctc-forced-aligner", "exact", ctc_forced_aligner, 0.25, 2**31),
    "torchaudio": Aligner("torchaudio", "`forced_align`, exact", torchaudio, 1.0),
}


def recording(emissions: Emissions, steps: int) -> tuple[LogProbs, Ints]:
    """Return log-probabilities of at least so many steps in one piece, and the tokens of their text."""
    ids = {symbol: token for token, symbol in enumerate(emissions.symbols, 1)}
    parts, texts, done = [], [], 0
    while done < steps:
        at = len(parts) % len(emissions.texts)
        parts.append(emissions.log_probs[at])
        texts.append(emissions.texts[at])
        done += len(parts[-1])
    tokens_u = np.array([ids[letter] for letter in " ".join(texts)], np.int32)
    return np.concatenate(parts), tokens_u


def present(steps: int, tokens: int, most_gb: float) -> dict[str, Align]:
    """Return the aligners that are installed and whose memory suffices; say which are left out, and why."""
    found: dict[str, Align] = {}
    for name, aligner in ALIGNERS.items():
        cells = steps * (2 * tokens + 1)
        needed_gb = aligner.bytes_per_cell * cells / 1e9
        if cells > aligner.most_cells:
            say(f"{name} is left out: {steps:,} steps are more than it can count")
            continue
        if needed_gb > most_gb:
            say(f"{name} is left out: {steps:,} steps would take {needed_gb:.1f} GB")
            continue
        try:
            found[name] = aligner.make()
        except ImportError as error:
            say(f"{name} is left out: {error}")
    return found


def memory_mib(name: str, problem: Path) -> float:
    """Return by how much one alignment raises the peak memory of a process."""
    command = [sys.executable, "-m", "benchmarks.align", "--memory-of", name, str(problem)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_memory(name: str, problem: Path) -> None:
    align = ALIGNERS[name].make()
    with np.load(problem) as file:
        log_probs_sv, token_u = file["log_probs_sv"], file["token_u"]
    short = min(_SHORT, len(log_probs_sv) // 2)
    align(log_probs_sv[:short].copy(), token_u[: len(token_u) * short // len(log_probs_sv)])
    # from here on: the peak that getrusage knows is at least that of the parent process
    Path("/proc/self/clear_refs").write_text("5")
    before_kib = _status("VmRSS")
    align(log_probs_sv, token_u)
    print((_status("VmHWM") - before_kib) / 1024)


def _status(key: str) -> int:
    """Return a number of KiB from what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(log_probs_sv: LogProbs, token_u: Ints, rounds: int, most_gb: float) -> list[list[str]]:
    """Measure every aligner; return the rows of the table."""
    aligners = present(len(log_probs_sv), len(token_u), most_gb)
    step_s = np.arange(len(log_probs_sv))
    score = {
        name: float(log_probs_sv[step_s, align(log_probs_sv, token_u)].sum(dtype=np.float64))
        for name, align in aligners.items()
    }
    ways = {name: lambda align=align: align(log_probs_sv, token_u) for name, align in aligners.items()}
    seconds = by_turns(ways, rounds)
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder) / "problem.npz"
        np.savez(problem, log_probs_sv=log_probs_sv, token_u=token_u)
        memory = {name: memory_mib(name, problem) for name in aligners}
    return [
        [
            OURS if name == OURS else f"{version_of(ALIGNERS[name].package)}",
            ALIGNERS[name].what,
            f"{median(seconds[name]):.3f}",
            f"{ratio(seconds, name, OURS):.1f}",
            f"{memory[name]:,.1f}",
            f"{score[name]:.3f}",
        ]
        for name in aligners
    ]


def say(line: str) -> None:
    """Print a line that is no result."""
    print(line, file=sys.stderr, flush=True)


def _emissions(arguments: argparse.Namespace) -> Emissions:
    if arguments.emissions not in SYNTHETIC:
        return load(Path(arguments.emissions))
    if arguments.text is None and not os.environ.get("ASR_TEST_DATA"):
        raise ConfigError("no text: give --text FILE, a sentence a line (or set ASR_TEST_DATA)")
    text = arguments.text or Path(os.environ["ASR_TEST_DATA"]) / "text" / "ljspeech-lm-text.txt.gz"
    out, _ = hold_out(read_text(text), 128, arguments.seed)
    return synthetic(out, arguments.seed, SYNTHETIC[arguments.emissions])


def main() -> int:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.align", description=summary)
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 100_000], help="lengths of the recording")
    parser.add_argument("--text", type=Path, help="a text, one sentence per line; may be gzip")
    parser.add_argument(
        "--emissions", default="synthetic", help="synthetic, blurred, or a file of benchmarks.emissions"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most-gb", type=float, default=1.5, help="leave out aligners that need more memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        _print_memory(arguments.memory_of[0], Path(arguments.memory_of[1]))
        return 0
    try:
        emissions = _emissions(arguments)
    except AsrError as error:
        say(f"error: {error}")
        return 2
    print(machine())
    for steps in arguments.steps:
        log_probs_sv, token_u = recording(emissions, steps)
        rows = measure(log_probs_sv, token_u, arguments.rounds, arguments.most_gb)
        print(f"\n{len(log_probs_sv):,} steps, {len(token_u):,} tokens, {arguments.emissions} emissions\n")
        print(table(["aligner", "", "seconds", "times ours", "memory, MiB", "log-probability of its path"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
