"""``asr lm``: parse, call one library function, print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.commands.console import check_apart, check_target, print_json, print_result, say, shown
from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.lm.model import NgramModel

app = typer.Typer(help="Language models, n-gram and neural: train, mix, measure, build, sample.")

Texts = Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Plain, gzip, a manifest, or - for stdin.")]
Model = Annotated[Path, typer.Argument(metavar="LM", help="ARPA, ARPA as gzip, or the binary form.")]
AnyModel = Annotated[Path, typer.Argument(metavar="LM", help="An n-gram model's file, or a neural model's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


Tokens = Annotated[
    Path | None, typer.Option("--tokenizer", help="For a model of tokens: the tokenizer, or a model folder with it.")
]

#: options of one type only
_NGRAM = ("order", "prune", "vocab", "discount_fallback", "skip_symbols")
_RNN = (
    "subwords", "cell", "layers", "hidden", "dropout", "epochs", "seed", "settings", "device", "threads",
)  # fmt: skip


@app.command()
def train(
    context: typer.Context,
    texts: Texts,
    out: Annotated[
        Path, typer.Option(help="Where to write: .arpa, .arpa.gz, or another name for the binary form; rnn: a folder.")
    ],
    kind: Annotated[str, typer.Option("--type", metavar="ngram|rnn", help="What kind of model.")] = "ngram",
    order: Annotated[int, typer.Option(min=1, max=6, help="The longest n-grams.")] = 3,
    prune: Annotated[
        str, typer.Option(metavar="N,N,...", help="Leave out n-grams that occur this often or less; by order.")
    ] = "0",
    vocab: Annotated[Path | None, typer.Option(help="Words to keep, between spaces or line ends.")] = None,
    discount_fallback: Annotated[
        bool, typer.Option(help="Use 0.5, 1, 1.5 where a small text gives no discounts, and say so.")
    ] = True,
    skip_symbols: Annotated[
        bool, typer.Option("--skip-symbols", help="Leave out <s>, </s> and <unk> in the text.")
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Model its tokens, not words: a tokenizer.json, or a model or data folder with one."),
    ] = None,
    subwords: Annotated[int | None, typer.Option(min=3, help="rnn: train a BPE tokenizer of this size.")] = None,
    cell: Annotated[str | None, typer.Option(metavar="lstm|gru", help="rnn: default lstm.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="rnn: recurrent layers, default 1.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="rnn: units a layer, default 512.")] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.99, help="rnn: default 0.2.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="rnn: at most, default 20.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="rnn: default 1.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="rnn: any other setting; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="rnn: auto, cpu, cuda, cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="rnn: CPU threads; default one a core.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate a model of a text: n-gram (interpolated modified Kneser-Ney), or neural; run again, rnn goes on."""
    _check_kind(context, kind)
    if kind == "rnn":
        shape = {"cell": cell, "layers": layers, "hidden": hidden, "dropout": dropout}
        given = shape | {"epochs": epochs, "seed": seed, "device": device, "threads": threads}
        _train_rnn(texts, out, tokenizer, subwords, settings or [], given, as_json)
        return
    from asr.lm import ngram

    try:
        thresholds = [int(n) for n in prune.split(",")]
    except ValueError as error:
        raise ConfigError(f"--prune takes whole numbers with commas between, got '{prune}'", key="prune") from error
    check_apart([out], [*texts, vocab, tokenizer])
    check_target(out)
    words = None if vocab is None else {word for line in ngram.read_lines([vocab]) for word in line.split()}
    with _lines_bar("counting n-grams") as progress, _lines(texts, tokenizer) as lines:
        model = ngram.train(
            lines, order, prune=thresholds, vocab=words, skip_symbols=skip_symbols, progress=progress,
            discount_fallback=ngram.FALLBACK_DISCOUNTS if discount_fallback else None,
        )  # fmt: skip
    ngram.write(model, out)
    _print_model(model, out, as_json)


def _check_kind(context: typer.Context, kind: str) -> None:
    """Refuses an unknown type, and options of the other one."""
    from asr.errors import nearest

    if kind not in ("ngram", "rnn"):
        raise ConfigError(f"unknown type '{kind}' (ngram, rnn){nearest(kind, ('ngram', 'rnn'))}", key="type")
    for name in _RNN if kind == "ngram" else _NGRAM:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":  # by name: typer has a click of its own
            option = "--set" if name == "settings" else "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is about --type {'rnn' if kind == 'ngram' else 'ngram'}", key=name)


def _train_rnn(
    texts: list[Path],
    out: Path,
    tokenizer: Path | None,
    subwords: int | None,
    settings: list[str],
    given: dict[str, Any],
    as_json: bool,
) -> None:
    from asr.data.tokenizer import find_tokenizer, read_tokenizer
    from asr.lm.files import read_lines

    if tokenizer is not None and subwords is not None:
        raise ConfigError("--tokenizer and --subwords are two ways to come to tokens; choose one")
    known = None if tokenizer is None else read_tokenizer(find_tokenizer(tokenizer))
    from asr.lm.neural import text as rnn_text
    from asr.lm.neural import train as rnn_train

    shape, how = rnn_train.configs(settings, **given)
    with _lines_bar("reading text") as read:
        reading = rnn_text.read(read_lines(texts), known, subwords=subwords, held_out=how.held_out, progress=read)
    with _training_bar() as watch:
        report = rnn_train.train(reading, shape, how, out, watch)
    if report.interrupted:
        raise typer.Exit(130)
    if as_json:
        print_json({"lm": str(out), "parameters": report.parameters} | report.facts)
    else:
        print_result(
            f"{shown(out)}: {report.parameters:,} parameters, {report.progress.best_bits:.4f} bits a character "
            f"on {len(reading.held_out):,} held-out sentences"
        )


@app.command()
def perplexity(lm: AnyModel, texts: Texts, tokenizer: Tokens = None, as_json: Json = False) -> None:
    """Measure how well a model predicts a text."""
    from asr.lm import ngram

    result: Any
    if lm.is_dir():
        from asr.lm.neural import perplexity as rnn_perplexity
        from asr.lm.neural.folder import load_rnn

        if tokenizer is not None:
            raise ConfigError("a neural model has a tokenizer of its own; leave out --tokenizer", key="tokenizer")
        with _lines_bar("reading text") as read:
            result = rnn_perplexity.perplexity(load_rnn(lm), ngram.read_lines(texts), read)
    else:
        with _lines(texts, tokenizer) as lines:
            result = ngram.perplexity(ngram.load(lm), lines)
    if as_json:
        print_json(result.to_json())
    else:
        print_result(str(result))


@app.command()
def build(
    lm: Model,
    out: Annotated[Path, typer.Option(help="Where to write: .arpa, .arpa.gz, or another name for the binary form.")],
    as_json: Json = False,
) -> None:
    """Turn ARPA into the binary form, which loads at once; or the other way round."""
    from asr.lm import ngram

    if lm.is_dir():
        raise ConfigError(f"{lm}: is a folder; only n-gram models have two forms")
    check_apart([out], [lm])
    check_target(out)
    model = ngram.load(lm)
    ngram.write(model, out)
    _print_model(model, out, as_json)


@app.command()
def mix(
    lms: Annotated[list[Path], typer.Argument(metavar="LM LM...", help="ARPA, ARPA as gzip, or the binary form.")],
    out: Annotated[Path, typer.Option(help="Where to write: .arpa, .arpa.gz, or another name for the binary form.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", metavar="TEXT", help="Choose the weights by this: a dev set's manifest; may be repeated."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="W,W,...", help="The weights, one a model.")] = None,
    tokenizer: Tokens = None,
    as_json: Json = False,
) -> None:
    """Interpolate n-gram models: a small one of the task with a large one of any text."""
    from asr.lm import mix as mixing
    from asr.lm import ngram

    if len(lms) < 2:
        raise ConfigError(f"{shown(lms[0])} alone is no mixture; name two models or more")
    if (texts is None) == (weights is None):
        raise ConfigError("give either --text TEXT, to choose the weights by it, or --weights W,W,...", key="weights")
    for lm in lms:
        if lm.is_dir():
            raise ConfigError(f"{lm}: is a folder; only n-gram models can be mixed")
    try:
        given = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights takes numbers with commas between, got '{weights}'", key="weights") from error
    if len({lm.resolve() for lm in lms}) < len(lms):
        raise ConfigError("a model is named twice; its weight is one number")
    check_apart([out], [*lms, *(texts or []), tokenizer])
    check_target(out)
    models = [ngram.load(lm) for lm in lms]
    with _lines(texts or [], tokenizer) as read:
        lines = list(read)
    given = mixing.scaled(mixing.best_weights(models, lines) if given is None else given, len(models))
    model = mixing.mix(models, given)
    ngram.write(model, out)
    names = [*map(str, lms), str(out)]
    measured = {name: ngram.perplexity(one, lines) for name, one in zip(names, [*models, model], strict=True) if lines}
    weight_of = dict(zip(names, given, strict=False))
    if as_json:
        facts: dict[str, Any] = {"weights": weight_of}
        if measured:
            facts["perplexity"] = {name: one.to_json() for name, one in measured.items()}
        print_json({"lm": str(out), "ngrams": list(model.counts)} | facts)
        return
    for name in names:
        weight = f"{weight_of[name]:8.4f}" if name in weight_of else " " * 8
        told = measured.get(name)
        known = f"  perplexity {told.without_unknown:,.2f}, {told.unknown_words:,} unknown" if told else ""
        print_result(f"{weight}  {shown(name)}{known}")
    _print_model(model, out, False)


@app.command()
def sample(
    lm: Annotated[Path, typer.Argument(metavar="LM", help="A neural model's folder.")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many texts.")] = 5,
    temperature: Annotated[
        float, typer.Option(min=0, max=100, help="Below 1: likelier texts; 0: the likeliest.")
    ] = 0.8,
    prefix: Annotated[str, typer.Option(help="How every text begins.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Other texts with another number.")] = 1,
    longest: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens after which a text is cut.")] = 500,
    as_json: Json = False,
) -> None:
    """Draw texts from a neural language model, to read what it has learnt."""
    from asr.lm.neural import network as rnn
    from asr.lm.neural.folder import load_rnn

    texts = rnn.sample(load_rnn(lm), num, temperature=temperature, prefix=prefix, seed=seed, longest=longest)
    if as_json:
        print_json({"lm": str(lm), "texts": texts})
    else:
        print_result("\n".join(map(shown, texts)))


def _print_model(model: NgramModel, out: Path, as_json: bool) -> None:
    counts = {f"{n}-grams": count for n, count in enumerate(model.counts, start=1)}
    if as_json:
        print_json({"lm": str(out), "ngrams": list(counts.values())})
    else:
        print_result(f"{shown(out)}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


@contextmanager
def _lines(texts: Sequence[Path], tokenizer: Path | None) -> Iterator[Iterator[str]]:
    """The lines of texts; of their tokens, where there is a tokenizer, and what that leaves out is said at the end."""
    from asr.data.tokenizer import find_tokenizer, read_tokenizer
    from asr.lm.files import as_tokens, read_lines

    if tokenizer is None:
        yield read_lines(texts)
        return
    left_out: Counter[str] = Counter()
    yield as_tokens(read_lines(texts), read_tokenizer(find_tokenizer(tokenizer)), left_out)
    if left_out:
        shown_most = ", ".join(f"{c!r} in {n:,}" for c, n in left_out.most_common(5))
        say(f"asr: lines left out for characters that the tokenizer does not know: {shown_most}")


@contextmanager
def _lines_bar(what: str) -> Iterator[Callable[..., None]]:
    """Lines so far, of which the one who reads them tells, with or without the words."""
    from asr.heartbeat import counted

    with counted(what, None, shown="{:,.0f} lines".format) as advance:
        before = 0

        def watch(lines: int, words: int = 0) -> None:
            nonlocal before
            advance(lines - before)
            before = lines

        yield watch


@contextmanager
def _training_bar() -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar over epochs with bits a character, tokens a second and time left; the log goes above it.

    Without a terminal, a line of the log about every minute.
    """
    import logging
    import time

    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        with _training_lines() as watch:
            yield watch
        return
    columns = (
        TextColumn("epoch {task.completed:.2f}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.fields[bits]} bits a character, held out {task.fields[held_out]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TimeRemainingColumn(),
    )
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [RichHandler(console=console, show_path=False, markup=False, rich_tracebacks=False)]
    began, tokens = time.perf_counter(), 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=None, epochs="?", bits="-", held_out="-", speed="-")

        def watch(values: dict[str, float]) -> None:
            nonlocal tokens
            tokens += values["tokens"]
            held_out = values["held_out"]
            progress.update(
                task, total=values["epochs"], completed=values["epoch"], epochs=f"{values['epochs']:g}",
                bits=f"{values['bits']:.3f}", held_out="-" if held_out != held_out else f"{held_out:.3f}",
                speed=f"{tokens / (time.perf_counter() - began):,.0f}",
            )  # fmt: skip

        try:
            yield watch
        finally:
            root.handlers[:] = before


@contextmanager
def _training_lines() -> Iterator[Callable[[dict[str, float]], None]]:
    import time

    from asr.heartbeat import heartbeat, time_left

    began, tokens = time.perf_counter(), 0.0
    first: tuple[float, float] | None = None
    latest: dict[str, float] = {}

    def watch(values: dict[str, float]) -> None:
        nonlocal tokens, first, latest
        tokens, latest = tokens + values["tokens"], values
        first = first or (time.perf_counter(), values["epoch"])

    def line() -> str:
        now = time.perf_counter()
        if first is None:
            return f"the first step is not done after {now - began:.0f} s"
        first_s, first_epoch = first
        done, left = latest["epoch"] - first_epoch, ""
        if done > 0:
            left = f", {time_left(now - first_s, done, latest['epochs'] - first_epoch)}"
        return (
            f"epoch {latest['epoch']:.2f} of {latest['epochs']:g}, {latest['bits']:.3f} bits a character, "
            f"{tokens / (now - began):,.0f} tokens/s{left}"
        )

    with heartbeat(line):
        yield watch
