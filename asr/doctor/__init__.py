"""What is wrong with the data, before it costs a run: ``examine(manifests) -> Report``.

It looks at every row and every audio header, and with ``deep`` at every sample; rows that ``asr.data.manifest.read``
would refuse are findings here. ``docs/doctor.md`` lists what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asr.doctor import checks, overlap, pairs
from asr.doctor.characters import check_characters
from asr.doctor.checks import Expected, Files
from asr.doctor.findings import Findings, Loaded
from asr.doctor.report import Report
from asr.doctor.rows import read_all
from asr.doctor.sound import Advance, Header, measure_all, read_headers, same_content

__all__ = ["Expected", "Report", "examine"]

#: (what is done, how many times) -> called with how many are done since the last call
Progress = Callable[[str, int], Advance]


def _silent(what: str, total: int) -> Advance:
    return lambda done: None


def examine(
    paths: Sequence[Path],
    expected: Expected | None = None,
    *,
    deep: bool = False,
    num_examples: int = 3,
    progress: Progress = _silent,
) -> Report:
    """Everything that is wrong with manifests and their audio.

    Args:
        expected: what a model wants (``asr.doctor.expected``); without it, checks against one are left out, and said.
        deep: decode all audio.

    Raises:
        DataError: a manifest cannot be read at all.
    """
    loaded: list[Loaded] = []
    findings = Findings(loaded, num_examples)
    read_all(paths, expected.normalization if expected else "none", loaded, findings)
    files = checks.files_of(loaded)
    headers = read_headers(files.paths, progress("headers", len(files.paths)))
    checks.check_headers(loaded, files, headers, expected.audio if expected else None, findings)
    content = same_content(files.paths, headers, progress("same size", 0))
    keys = [
        [overlap.audio_key(row, headers[file], content[file]) for row, file in zip(one.rows, of_row, strict=True)]
        for one, of_row in zip(loaded, files.of_row, strict=True)
    ]
    if deep:
        _decode(loaded, files, headers, keys, findings, progress)
    overlap.check_same_audio(loaded, keys, findings)
    skipped = _check_texts(loaded, files, headers, expected, findings)
    if not deep:
        skipped.append("the samples (clipping, silence, DC offset, damage inside a file): use --deep")
    return Report(loaded, findings.sorted(), findings.bad, skipped, len(files.paths), deep)


def _check_texts(
    loaded: list[Loaded], files: Files, headers: Sequence[Header], expected: Expected | None,
    findings: Findings,
) -> list[str]:  # fmt: skip
    tokenizer = steps = None
    skipped = []
    check_characters(loaded, findings)
    pairs.check_pairs(loaded, findings)
    if expected is None:
        skipped.append("sample rate, vocabulary and output steps of a model: give --config or --model")
    else:
        tokenizer = checks.vocabulary(loaded, expected, findings)
        steps = [
            expected.num_steps(checks.num_samples(one, of_row, headers, expected.audio.sample_rate_hz))
            for one, of_row in zip(loaded, files.of_row, strict=True)
        ]
        if tokenizer is None:
            why = "a config takes the vocabulary from a training manifest, give one"
            if any(one.is_training for one in loaded):
                why = "no row of the training manifest is without an error; mend those first"
            skipped.append(f"vocabulary and output steps: {why}")
    first, then = list(range(len(loaded))), []
    if expected is not None and expected.tokenizer is None:
        first = [i for i, one in enumerate(loaded) if one.is_training]
        then = [i for i, one in enumerate(loaded) if not one.is_training]
    before = len(findings.bad)
    checks.check_texts(loaded, first, steps, expected, tokenizer, findings)
    if expected is not None and then and len(findings.bad) > before:
        # rows that --fix takes out for their labels give the vocabulary nothing
        tokenizer = checks.vocabulary(loaded, expected, findings)
    checks.check_texts(loaded, then, steps, expected, tokenizer, findings)
    checks.check_rare_characters(loaded, findings)
    pairs.check_rate_of_speech(loaded, findings)
    pairs.check_speed(loaded, findings)
    return skipped + overlap.check_overlap(loaded, findings)


def _decode(
    loaded: list[Loaded], files: Files, headers: Sequence[Header], keys: list[list[object]],
    findings: Findings, progress: Progress,
) -> None:  # fmt: skip
    spans, whose = [], []
    for index, one in enumerate(loaded):
        for i, (row, file) in enumerate(zip(one.rows, files.of_row[index], strict=True)):
            header, u = headers[file], row.utterance
            if header.code:
                continue
            start = checks.samples_in(u.offset_s, header.rate_hz)
            if start >= header.frames:
                continue
            count = header.frames - start
            if not overlap.means_whole_file(u, header):
                count = min(count, checks.samples_in(u.duration_s, header.rate_hz))
            if isinstance(u.channel, int) and u.channel > header.channels:
                continue
            spans.append((files.paths[file], start, count, u.channel))
            whose.append((index, i))
    for (index, i), sound in zip(whose, measure_all(spans, progress("samples", len(spans))), strict=True):
        row = loaded[index].rows[i]
        checks.check_sound(row, sound, bool(row.text), findings)
        keys[index][i] = sound.key or None
