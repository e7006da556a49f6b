"""The ``asr`` command: parse, call one library function, print.

stdout carries results, stderr the log and progress. Exit 0: all done; 1: some items failed, named at the end; 2: the
user's mistake, in one line; 130: interrupted. Heavy imports happen inside the subcommands, so that ``asr --help``
answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.console import (
    audio_bar,
    check_target,
    file_bar,
    give_up_stdout,
    print_json,
    print_result,
    print_table,
    say,
    shown,
    training_bar,
    write_lines,
)
from asr.errors import AsrError, ConfigError, nearest, os_reason
from asr.lm.commands import app as lm_app

if TYPE_CHECKING:
    from asr.progress import Report

app = typer.Typer(
    name="asr",
    help="End-to-end speech recognition with CTC.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(lm_app, name="lm")

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder (its best model).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DecoderName = Annotated[str, typer.Option("--decoder", metavar="greedy|beam", help="Beam search is what --lm needs.")]
Lm = Annotated[Path | None, typer.Option("--lm", help="An n-gram language model: ARPA, gzipped or not, or binary.")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, max=100_000, help="Prefixes kept a step; default 100.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Weight of the language model; default 0.5.")]
Beta = Annotated[float | None, typer.Option("--beta", help="Bonus for each word, with a language model; default 1.5.")]
Hotwords = Annotated[list[str] | None, typer.Option("--hotword", metavar="WORD[:W]", help="A word to expect.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default one a core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]


def run() -> None:
    """The command's entry point: what goes wrong becomes one line on stderr and an exit code."""
    # How long torch's threads spin before they sleep. For ever (the default) makes two-thread torch many times
    # slower as soon as another process wants a core; not at all makes each small product pay for waking them.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if sys.stderr is None:  # closed by the caller; what is said there must not end up in stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        say("asr: stdout is closed, but results go there; send it to a file or to /dev/null")
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names can be of any bytes; a result must not be lost because one cannot be printed.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _run()
    try:
        sys.stdout.flush()
    except OSError:
        give_up_stdout()
        code = code or 2
    sys.exit(code)


def _run() -> int:
    try:
        code: int | None = app(standalone_mode=False)
    except AsrError as error:
        say(f"asr: {error}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # from the help text; results go through print_result
        give_up_stdout()
        return 1
    except OSError as error:
        where = "" if error.filename is None else f"{shown(error.filename)}: "
        say(f"asr: {where}{os_reason(error)}")
        give_up_stdout()
        return 2
    except Exception as error:
        # Typer's usage errors have had three homes so far (click, its own copy of click): known by what they can do.
        if not hasattr(error, "format_message"):
            raise
        say(_usage_line(error))
        return 2
    if code == 130:
        say("asr: interrupted")
    return code or 0


def _usage_line(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "asr"
    message = shown(" ".join(error.format_message().split()).rstrip("."))
    return f"{command}: {message[:1].lower()}{message[1:]} ('{command} --help' shows what it takes)"


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from asr import __version__

        print_result(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.raiseExceptions = False  # a log that cannot be written (disk full) says nothing, least of all a traceback
    logging.getLogger("asr").setLevel(logging.DEBUG if verbose else logging.INFO)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes: dataset, hours, licence, configs."""
    from asr.prepare import find_recipe, recipe_configs, recipe_names

    found = [find_recipe(name) for name in recipe_names()]
    if as_json:
        keys = ("name", "title", "hours", "sample_rate_hz", "licence", "homepage", "archive")
        print_json([{k: getattr(r, k) for k in keys} | {"configs": recipe_configs(folder)} for r, folder in found])
        return
    rows = [(r.name, r.title, f"{r.hours:g}", " ".join(recipe_configs(folder)), r.licence) for r, folder in found]
    print_table(("recipe", "dataset", "hours", "configs", "licence"), rows)


@app.command()
def prepare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name ('asr recipes' lists them) or its folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for audio and manifests.")],
    archive: Annotated[Path | None, typer.Option(help="The corpus archive, already on this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a corpus into manifests."""
    from asr.prepare import find_recipe

    found, _ = find_recipe(recipe)
    say(f"{found.title}; licence: {found.licence}")
    try:
        prepared = found.prepare(out, archive)
    except OSError as error:
        raise AsrError(f"{error.filename or out}: {os_reason(error)}") from error
    if as_json:
        manifests = {name: str(path) for name, path in prepared.manifests.items()}
        counts = {name: len(rows) for name, rows in prepared.utterances.items()}
        print_json({"manifests": manifests, "utterances": counts, "dropped": prepared.dropped})
    else:
        print_result("\n".join([*prepared.summary(), *map(shown, prepared.manifests.values())]))


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file, or recipe/name (an4/default).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with train.jsonl and dev.jsonl.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one config value.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder, exactly.")] = None,
) -> None:
    """Train a model, or continue a run that was stopped or killed."""
    if resume is not None:
        given = [n for n, v in (("CONFIG", config), ("--out", out), ("--set", set_)) if v]
        if given:
            raise ConfigError(f"--resume continues the run as it was configured; leave out {', '.join(given)}")
    elif config is None or data is None or out is None:
        raise ConfigError("train needs CONFIG, --data DIR and --out RUN; or --resume RUN")
    from asr import config as configs
    from asr import train as training
    from asr.prepare import find_config

    with training_bar() as watch:
        if resume is not None:
            report = training.resume(resume, data, watch)
        else:
            assert config is not None and data is not None and out is not None  # checked above
            report = training.train(configs.load(find_config(config), set_ or ()), data, out, watch)
    _finish_training(report)


def _finish_training(report: Report) -> None:
    if report.interrupted:
        raise typer.Exit(130)
    if report.progress.best:
        print_result(shown(report.run / "best"))


@app.command()
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
    recognizer = _recognizer(model, device, threads, resample, _Asked(decoder, lm, hotwords or [], search))
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
    with _naming_failures(result.failed):
        if hypotheses is not None:
            write_lines(hypotheses, (u.to_json() for u in result.score.per_utterance))


@app.command()
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
    resample: Annotated[bool, typer.Option("--resample", help="Resample audio of another rate.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the first file's spectrogram and posteriors here.")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Transcribe audio files."""
    if nbest is not None and nbest > 1 and not as_json:
        raise ConfigError("--nbest is shown in the JSON only; add --json")
    search = {"beam_width": beam, "nbest": nbest, "alpha": alpha, "beta": beta}
    recognizer = _recognizer(model, device, threads, resample, _Asked(decoder, lm, hotwords or [], search))
    if picture is not None:
        from asr.picture import check

        check(picture)
        check_target(picture)
    from asr.transcribe import Failure

    failed: dict[str, str] = {}
    done = []
    with _naming_failures(failed):
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


@app.command()
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


@app.command()
def info(
    thing: Annotated[
        str, typer.Argument(metavar="THING", help="A model or run folder, a manifest, or a training config.")
    ],
    as_json: Json = False,
) -> None:
    """Say what a model, a manifest or a config is."""
    from asr.info import describe

    title, facts = describe(thing)
    if as_json:
        print_json({"kind": title} | facts)
        return
    lines = [title]
    width = max(map(len, facts))
    for key, value in facts.items():
        if isinstance(value, list):
            lines += [f"  {key}:", *(f"    {row}" for row in value)]
        else:
            lines.append(f"  {key:<{width}}  {shown(value)}")
    print_result("\n".join(lines))


@dataclass(frozen=True)
class _Asked:
    """What the options say of the decoder."""

    name: str
    lm: Path | None
    hotwords: Sequence[str]
    search: dict[str, Any]

    def check(self) -> bool:
        """Whether beam search is asked for, by name or by what only it can do.

        Raises:
            ConfigError: the name is unknown, or is greedy beside an option that greedy decoding cannot follow.
        """
        if self.name not in ("", "greedy", "beam"):
            raise ConfigError(f"unknown decoder '{self.name}' (greedy, beam){nearest(self.name, ('greedy', 'beam'))}")
        needs = [o for o, v in (("--lm", self.lm), ("--hotword", self.hotwords)) if v]
        needs += ["--" + key.partition("_")[0] for key, value in self.search.items() if value is not None]
        if self.name == "greedy" and needs:
            raise ConfigError(f"greedy decoding cannot use {', '.join(needs)}; use --decoder beam")
        return self.name == "beam" or bool(needs)


def _recognizer(model: Path, device: str, threads: int | None, resample: bool, asked: _Asked) -> Any:
    """The recognizer of a model, with threads and decoder set; torch is imported here."""
    with_beam = asked.check()
    from asr.checkpoint import find_model

    find_model(model)
    from asr.runtime import use_threads
    from asr.transcribe import Recognizer

    use_threads(threads)
    recognizer = Recognizer.load(model, device, resample=resample)
    if not with_beam:
        return recognizer
    from asr.config import parse
    from asr.decode.choose import beam_decoder
    from asr.decode.settings import BeamConfig, parse_hotword

    given = {key: value for key, value in asked.search.items() if value is not None}
    settings = given | {"hotwords": dict(map(parse_hotword, asked.hotwords))}
    config = parse(BeamConfig, settings, "decoder options")
    return Recognizer(recognizer.model, beam_decoder(recognizer.model.tokenizer, config, asked.lm))


@contextmanager
def _naming_failures(failed: dict[str, str]) -> Iterator[None]:
    """At the end, whatever else goes wrong inside, names the items that failed, and exits with 1 if there are any."""
    try:
        yield
    finally:
        if failed:
            say("\n".join([f"asr: {len(failed):,} failed:", *(f"  {why}" for why in failed.values())]))
    if failed:
        raise typer.Exit(1)
