"""``asr transcribe``: audio in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr.commands import options
from asr.commands.options import (
    Alpha,
    Asked,
    Backend,
    Beam,
    Beta,
    DecoderName,
    Device,
    Hotwords,
    Json,
    Lexicon,
    Lm,
    ModelPath,
    Threads,
    naming_failures,
)  # fmt: skip
from asr.console import check_target, file_bar, print_json, print_result, say, shown
from asr.errors import ConfigError


def transcribe(
    model: ModelPath,
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Audio: WAV, FLAC, SPHERE, MP3, Ogg.")],
    as_json: Json = False,
    decoder: DecoderName = "",
    lm: Lm = None,
    beam: Beam = None,
    nbest: Annotated[int | None, typer.Option(min=1, help="Texts a file, best first, in the JSON.")] = None,
    alpha: Alpha = None,
    beta: Beta = None,
    hotwords: Hotwords = None,
    lexicon: Lexicon = None,
    backend: Backend = "",
    resample: Annotated[bool, typer.Option("--resample", help="Resample audio of another rate.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the first file's spectrogram and posteriors here.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Transcribe audio files."""
    if nbest is not None and nbest > 1 and not as_json:
        raise ConfigError("--nbest is shown in the JSON only; add --json")
    if picture is not None:
        from asr.picture import check

        check(picture)
        check_target(picture)
    search = {"beam_width": beam, "nbest": nbest, "alpha": alpha, "beta": beta}
    recognizer = options.recognizer(
        model,
        device,
        threads,
        resample,
        Asked(decoder, lm, hotwords or [], search, backend, lexicon, confidence=as_json),
    )
    from asr.transcribe import Failure

    failed: dict[str, str] = {}
    done = []
    with naming_failures(failed):
        with file_bar(len(inputs)) as advance:
            for result in recognizer.transcribe_all(inputs):
                advance()
                if isinstance(result, Failure):
                    failed[result.path] = result.why
                    continue
                if result.resampled_from_hz:
                    rate = recognizer.model.audio.sample_rate_hz
                    say(f"{shown(result.path)}: resampled from {result.resampled_from_hz} to {rate} Hz")
                done.append(result)
                if not as_json:
                    print_result(result.text if len(inputs) == 1 else f"{shown(result.path)}\t{result.text}")
        if as_json:
            print_json({"transcripts": [t.to_json() for t in done], "failed": failed, "model": str(model)})
        if picture is not None and done:
            from asr.picture import draw

            draw(recognizer, Path(done[0].path), picture)
            say(f"picture: {shown(picture)}")
