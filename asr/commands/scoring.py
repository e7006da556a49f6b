"""``asr evaluate`` and ``asr score``: error rates, with a model and without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr.commands import options
from asr.commands.options import (
    Alpha,
    Asked,
    Beam,
    Beta,
    DecoderName,
    Device,
    Hotwords,
    Json,
    Lm,
    ModelPath,
    Threads,
    naming_failures,
)  # fmt: skip
from asr.console import audio_bar, check_target, print_json, print_result, say, shown, write_lines
from asr.errors import ConfigError


def evaluate(
    model: ModelPath,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A JSON Lines manifest with the references.")],
    hypotheses: Annotated[Path | None, typer.Option(help="Write one JSON line an utterance here.")] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a row for a RESULTS.md table.")] = False,
    decoder: DecoderName = "",
    lm: Lm = None,
    beam: Beam = None,
    alpha: Alpha = None,
    beta: Beta = None,
    hotwords: Hotwords = None,
    resample: Annotated[bool, typer.Option("--resample", help="Resample audio of another rate.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model's WER and CER on a manifest."""
    from asr import manifest as manifests

    if as_json and markdown:
        raise ConfigError("--json and --markdown are two forms of one result; choose one")
    rows = manifests.read(manifest)
    if hypotheses is not None:
        check_target(hypotheses)
    search = {"beam_width": beam, "alpha": alpha, "beta": beta}
    recognizer = options.recognizer(model, device, threads, resample, Asked(decoder, lm, hotwords or [], search))
    from asr.evaluate import MARKDOWN_HEADER, markdown_row
    from asr.evaluate import evaluate as measure
    from asr.wer import format_score

    with audio_bar(rows.duration_s) as advance:
        result = measure(recognizer.model, rows, recognizer.decoder, advance)
    # The result first: it must not be lost when the file cannot be written.
    if as_json:
        print_json(result.to_json(str(model)))
    elif markdown:
        print_result(f"{MARKDOWN_HEADER}\n{markdown_row(recognizer.model, result)}")
    else:
        print_result(format_score(result.score))
        minutes = result.audio_s / 60
        print_result(
            f"{minutes:.1f} min of audio in {result.seconds:.1f} s (real-time factor {result.rtf:.4f}), "
            f"{result.decoder}, {'LM ' + result.lm if result.lm else 'no LM'}, "
            f"text normalization: {result.normalization}; {result.health.blank_fraction:.0%} of steps blank, "
            f"emitted/reference {result.health.emitted_ratio:.2f}"
        )
    with naming_failures(result.failed):
        if hypotheses is not None:
            write_lines(hypotheses, (u.to_json() for u in result.score.per_utterance))


def score(
    reference: Annotated[Path, typer.Argument(help="Manifest, or lines of 'id text'.")],
    hypothesis: Annotated[Path, typer.Argument(help="Hypotheses: JSON Lines, or lines of 'id text'.")],
    as_json: Json = False,
) -> None:
    """Score hypotheses against references, paired by utterance id; no model needed."""
    from asr.wer import format_score, score_files

    result, missing_hypothesis, missing_reference = score_files(reference, hypothesis)
    if as_json:
        print_json(
            result.to_json() | {"missing_hypothesis": missing_hypothesis, "missing_reference": missing_reference}
        )
    else:
        print_result(format_score(result))
    for ids, side, other in (
        (missing_hypothesis, hypothesis, "hypothesis"),
        (missing_reference, reference, "reference"),
    ):
        if ids:
            some = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
            say(shown(f"asr: {side}: no {other} for {len(ids):,} of the ids, which are not scored: {some}"))
    if missing_hypothesis or missing_reference:
        raise typer.Exit(1)
