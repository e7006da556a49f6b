"""``asr lm``: language models, n-gram and neural."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from asr.commands.console import (
    absolute_bar,
    check_apart,
    check_target,
    epoch_bar,
    print_either,
    print_json,
    print_result,
    say,
    shown,
)
from asr.commands.options import Json, with_groups
from asr.errors import ConfigError, nearest
from asr.heartbeat import heartbeat, time_left

if TYPE_CHECKING:
    from asr.data.tokenizer import Tokenizer
    from asr.lm.model import NgramModel

app = typer.Typer(help="Language models, n-gram and neural: train, mix, prune, measure, build, sample.")

Texts = Annotated[list[Path], Argument(metavar="TEXT...", help="Plain, gzip, a manifest, or - for stdin.")]
Model = Annotated[Path, Argument(metavar="LM", help="ARPA, ARPA as gzip, the binary form, or KenLM's.")]
AnyModel = Annotated[Path, Argument(metavar="LM", help="An n-gram model's file, or a neural model's folder.")]
Out = Annotated[Path, Option(help="Where to write: .arpa, .arpa.gz, or another name for the binary form.")]
Tokens = Annotated[Path | None, Option("--tokenizer", help="For a model of tokens: the tokenizer, or its model.")]


@dataclass(frozen=True)
class NgramOptions:
    """Options of the estimation of an n-gram model."""

    order: Annotated[int, Option(min=1, max=6, help="The longest n-grams.")] = 3
    prune: Annotated[
        str, Option(metavar="N,N,...", help="Leave out n-grams that occur so often or less; by order.")
    ] = "0"
    vocab: Annotated[Path | None, Option(help="Words to keep, between spaces or line ends.")] = None
    discount_fallback: Annotated[bool, Option(help="Use 0.5, 1, 1.5 if a small text gives no discounts.")] = True
    skip_symbols: Annotated[bool, Option("--skip-symbols", help="Leave out <s>, </s> and <unk> in the text.")] = False


@dataclass(frozen=True)
class RnnOptions:
    """Options of the training of a neural model."""

    subwords: Annotated[int | None, Option(min=3, help="rnn: train a BPE tokenizer of this size.")] = None
    cell: Annotated[str | None, Option(metavar="lstm|gru", help="rnn: default lstm.")] = None
    layers: Annotated[int | None, Option(min=1, help="rnn: recurrent layers, default 1.")] = None
    hidden: Annotated[int | None, Option(min=1, help="rnn: units per layer, default 512.")] = None
    dropout: Annotated[float | None, Option(min=0, max=0.99, help="rnn: default 0.2.")] = None
    epochs: Annotated[int | None, Option(min=1, help="rnn: at most, default 20.")] = None
    seed: Annotated[int | None, Option(min=0, help="rnn: default 1.")] = None
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="rnn: any other setting.")] = None
    device: Annotated[str | None, Option(help="rnn: auto, cpu, cuda, cuda:1.")] = None
    threads: Annotated[int | None, Option(min=1, max=1024, help="rnn: CPU threads; default one per core.")] = None


@app.command()
@with_groups
def train(
    *,
    context: typer.Context,
    texts: Texts,
    out: Annotated[Path, Option(help="Where to write: .arpa, .arpa.gz, another name (binary form); rnn: a folder.")],
    kind: Annotated[str, Option("--type", metavar="ngram|rnn", help="What kind of model.")] = "ngram",
    counting: NgramOptions,
    tokenizer: Annotated[
        Path | None,
        Option(help="Model its tokens, not words: a tokenizer.json, or its model."),
    ] = None,
    network: RnnOptions,
    as_json: Json = False,
) -> None:
    """Estimate a model of a text: n-gram (interpolated modified Kneser-Ney), or neural; run again, rnn goes on."""
    if kind not in ("ngram", "rnn"):
        raise ConfigError(f"unknown type '{kind}' (ngram, rnn){nearest(kind, ('ngram', 'rnn'))}", key="type")
    if kind == "ngram":
        _refuse_options(context, RnnOptions, "rnn")
        _train_ngram(texts, out, counting, tokenizer, as_json)
    else:
        _refuse_options(context, NgramOptions, "ngram")
        _train_rnn(texts, out, network, tokenizer, as_json)


def _refuse_options(context: typer.Context, group: type[Any], kind: str) -> None:
    """Refuse options that belong to the other type of model."""
    for field in fields(group):
        source = context.get_parameter_source(field.name)
        if source is not None and source.name == "COMMANDLINE":  # by name: typer has a click of its own
            option = "--set" if field.name == "settings" else "--" + field.name.replace("_", "-")
            raise ConfigError(f"{option} is about --type {kind}", key=field.name)


def _train_ngram(texts: list[Path], out: Path, counting: NgramOptions, tokenizer: Path | None, as_json: bool) -> None:
    from asr.lm import ngram

    try:
        thresholds = [int(n) for n in counting.prune.split(",")]
    except ValueError as error:
        message = f"--prune takes whole numbers with commas between, got '{counting.prune}'"
        raise ConfigError(message, key="prune") from error
    check_apart([out], [*texts, counting.vocab, tokenizer])
    check_target(out)

    words = None
    if counting.vocab is not None:
        words = {word for line in ngram.read_lines([counting.vocab]) for word in line.split()}
    with _lines_bar("counting n-grams") as reach, _lines(texts, tokenizer) as lines:
        model = ngram.train(
            lines,
            counting.order,
            prune=thresholds,
            vocab=words,
            skip_symbols=counting.skip_symbols,
            progress=lambda lines, words: reach(lines),
            discount_fallback=counting.discount_fallback,
        )
    ngram.write(model, out)
    _print_model(model, out, as_json)


def _train_rnn(texts: list[Path], out: Path, network: RnnOptions, tokenizer: Path | None, as_json: bool) -> None:
    from asr.lm.files import read_lines

    if tokenizer is not None and network.subwords is not None:
        raise ConfigError("--tokenizer and --subwords are two ways to come to tokens; choose one")
    known = None if tokenizer is None else _read_tokenizer(tokenizer)

    from asr.lm.neural import text as rnn_text
    from asr.lm.neural import train as rnn_train
    from asr.lm.neural.config import read_config

    given = {name: value for name, value in asdict(network).items() if name not in ("subwords", "settings")}
    cfg = read_config(network.settings or [], **given)
    with _lines_bar("reading text") as reach:
        reading = rnn_text.read(
            read_lines(texts), known, subwords=network.subwords, held_out=cfg.held_out, progress=reach
        )
    with _training_bar() as watch:
        report = rnn_train.train(reading, cfg, out, watch)
    if report.interrupted:
        raise typer.Exit(130)

    bits = f"{report.progress.best_bits:.4f} bits per character on {len(reading.held_out):,} held-out sentences"
    print_either(
        as_json,
        {"lm": str(out), "parameters": report.parameters} | report.facts,
        f"{shown(out)}: {report.parameters:,} parameters, {bits}",
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
        with _lines_bar("reading text") as reach:
            result = rnn_perplexity.perplexity(load_rnn(lm), ngram.read_lines(texts), reach)
    else:
        with _lines(texts, tokenizer) as lines:
            result = ngram.perplexity(ngram.load(lm), lines)
    print_either(as_json, result.to_json(), str(result))


@app.command()
def build(lm: Model, out: Out, as_json: Json = False) -> None:
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
def prune(
    lm: Model,
    out: Out,
    threshold: Annotated[
        float, Option(metavar="T", min=0, max=1, help="Leave out n-grams that change perplexity by a smaller share.")
    ] = 0.0,
    min_order: Annotated[int, Option(min=2, max=6, help="Prune n-grams of this order and above.")] = 2,
    vocab: Annotated[Path | None, Option(help="Words to keep, between spaces or line ends.")] = None,
    texts: Annotated[
        list[Path] | None, Option("--text", metavar="TEXT", help="Measure perplexity before and after on this.")
    ] = None,
    tokenizer: Tokens = None,
    as_json: Json = False,
) -> None:
    """Make an n-gram model smaller: by relative entropy (Stolcke 1998), or to the words of a list."""
    from asr.lm import ngram
    from asr.lm.prune import prune as prune_model

    if lm.is_dir():
        raise ConfigError(f"{lm}: is a folder; only n-gram models can be pruned")
    if threshold == 0 and vocab is None:
        raise ConfigError("give --threshold T (1e-7 or so), --vocab FILE, or both", key="threshold")
    check_apart([out], [lm, vocab, tokenizer, *(texts or [])])
    check_target(out)

    words = None
    if vocab is not None:
        words = {word for line in ngram.read_lines([vocab]) for word in line.split()}
    model = ngram.load(lm)
    with _lines(texts or [], tokenizer) as read:
        lines = list(read)
    pruned = prune_model(model, threshold, min_order=min_order, vocab=words)
    ngram.write(pruned, out)

    rows = [(lm, model), (out, pruned)]
    measured = [ngram.perplexity(each, lines) for _, each in rows] if lines else []
    sizes = [path.stat().st_size for path, _ in rows]
    if as_json:
        document: dict[str, Any] = {
            "lm": str(out),
            "ngrams": list(pruned.counts),
            "ngrams_before": list(model.counts),
            "bytes": sizes[1],
            "bytes_before": sizes[0],
        }
        if measured:
            document |= {"perplexity": measured[1].to_json(), "perplexity_before": measured[0].to_json()}
        print_json(document)
        return
    for number, (path, each) in enumerate(rows):
        row = f"{shown(path)}: {sum(each.counts):,} n-grams, {sizes[number] / 1e6:.1f} MB"
        if measured:
            result = measured[number]
            row += f", perplexity {result.without_unknown:,.2f}, {result.unknown_words:,} unknown"
        print_result(row)
    _print_model(pruned, out, False)


@app.command()
def mix(
    lms: Annotated[list[Path], Argument(metavar="LM LM...", help="ARPA, ARPA as gzip, or the binary form.")],
    out: Out,
    texts: Annotated[
        list[Path] | None,
        Option("--text", metavar="TEXT", help="Choose the weights by this: a dev set's manifest; may be repeated."),
    ] = None,
    weights: Annotated[str | None, Option(metavar="W,W,...", help="The weights, one per model.")] = None,
    tokenizer: Tokens = None,
    as_json: Json = False,
) -> None:
    """Interpolate n-gram models: a small one of the task with a large one of any text."""
    from asr.lm import mix as mixing
    from asr.lm import ngram

    given = _check_mix(lms, texts, weights)
    check_apart([out], [*lms, *(texts or []), tokenizer])
    check_target(out)

    models = [ngram.load(lm) for lm in lms]
    with _lines(texts or [], tokenizer) as read:
        lines = list(read)
    if given is None:
        given = mixing.best_weights(models, lines)
    given = mixing.scaled(given, len(models))
    model = mixing.mix(models, given)
    ngram.write(model, out)

    names = [*map(str, lms), str(out)]
    weight_of = dict(zip(names, given, strict=False))
    perplexities = {}
    if lines:
        perplexities = {n: ngram.perplexity(m, lines) for n, m in zip(names, [*models, model], strict=True)}
    if as_json:
        document: dict[str, Any] = {"lm": str(out), "ngrams": list(model.counts), "weights": weight_of}
        if perplexities:
            document["perplexity"] = {name: result.to_json() for name, result in perplexities.items()}
        print_json(document)
        return
    for name in names:
        row = f"{weight_of[name]:8.4f}" if name in weight_of else " " * 8
        row += f"  {shown(name)}"
        if name in perplexities:
            result = perplexities[name]
            row += f"  perplexity {result.without_unknown:,.2f}, {result.unknown_words:,} unknown"
        print_result(row)
    _print_model(model, out, False)


def _check_mix(lms: list[Path], texts: list[Path] | None, weights: str | None) -> list[float] | None:
    """Return the given weights, or None if a text is to choose them.

    Raises:
        ConfigError: the models and weights make no mixture.
    """
    if len(lms) < 2:
        raise ConfigError(f"{shown(lms[0])}: a mixture needs two models or more, got one")
    if (texts is None) == (weights is None):
        raise ConfigError("give either --text TEXT, to choose the weights by it, or --weights W,W,...", key="weights")
    for lm in lms:
        if lm.is_dir():
            raise ConfigError(f"{lm}: is a folder; only n-gram models can be mixed")
    if len({lm.resolve() for lm in lms}) < len(lms):
        raise ConfigError("a model is named twice; its weight is one number")
    if weights is None:
        return None
    try:
        return [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights takes numbers with commas between, got '{weights}'", key="weights") from error


@app.command()
def sample(
    lm: Annotated[Path, Argument(metavar="LM", help="A neural model's folder.")],
    num: Annotated[int, Option(min=1, max=10_000, help="How many texts.")] = 5,
    temperature: Annotated[float, Option(min=0, max=100, help="Below 1: likelier texts; 0: the likeliest.")] = 0.8,
    prefix: Annotated[str, Option(help="How every text begins.")] = "",
    seed: Annotated[int, Option(min=0, help="Other texts with another number.")] = 1,
    longest: Annotated[int, Option(min=1, max=100_000, help="Tokens after which a text is cut.")] = 500,
    as_json: Json = False,
) -> None:
    """Draw texts from a neural language model, to read what it has learnt."""
    from asr.lm.neural import network as rnn
    from asr.lm.neural.folder import load_rnn

    texts = rnn.sample(load_rnn(lm), num, temperature=temperature, prefix=prefix, seed=seed, longest=longest)
    print_either(as_json, {"lm": str(lm), "texts": texts}, "\n".join(map(shown, texts)))


def _print_model(model: NgramModel, out: Path, as_json: bool) -> None:
    counts = (f"{count:,} {n}-grams" for n, count in enumerate(model.counts, start=1))
    print_either(as_json, {"lm": str(out), "ngrams": list(model.counts)}, f"{shown(out)}: {', '.join(counts)}")


@contextmanager
def _lines(texts: Sequence[Path], tokenizer: Path | None) -> Iterator[Iterator[str]]:
    """Read the lines of texts, or with a tokenizer those of their tokens; say at the end what that leaves out."""
    from asr.lm.files import as_tokens, read_lines

    if tokenizer is None:
        yield read_lines(texts)
        return
    left_out: Counter[str] = Counter()
    yield as_tokens(read_lines(texts), _read_tokenizer(tokenizer), left_out)
    if left_out:
        commonest = ", ".join(f"{c!r} in {n:,}" for c, n in left_out.most_common(5))
        say(f"asr: lines left out for characters that the tokenizer does not know: {commonest}")


def _read_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer of a file, of a model or data folder, or of a published model."""
    from asr.data.tokenizer_file import find_tokenizer, read_tokenizer

    if ":" in str(path):  # as in every name of a published model; they need torch
        from asr.model.folder import published

        if (module := published(path)) is not None:
            return module.describe(path).tokenizer
    return read_tokenizer(find_tokenizer(path))


def _lines_bar(what: str) -> AbstractContextManager[Callable[[float], None]]:
    return absolute_bar(what, None, "{:,.0f} lines".format)


@contextmanager
def _training_bar() -> Iterator[Callable[[dict[str, float]], None]]:
    """Show progress in epochs with bits per character, tokens per second and the time left."""
    began = time.perf_counter()
    tokens = 0.0
    first: tuple[float, float] | None = None
    newest: dict[str, float] = {}

    def describe(values: dict[str, float]) -> str:
        held_out = "-" if math.isnan(values["held_out"]) else f"{values['held_out']:.3f}"
        return f"{values['bits']:.3f} bits per character, held out {held_out}  {speed()}"

    def speed() -> str:
        return f"{tokens / (time.perf_counter() - began):,.0f} tokens/s"

    def line() -> str:
        now = time.perf_counter()
        if first is None:
            return f"the first step is not done after {now - began:.0f} s"
        first_s, first_epoch = first
        done = newest["epoch"] - first_epoch
        left = f", {time_left(now - first_s, done, newest['epochs'] - first_epoch)}" if done > 0 else ""
        state = f"epoch {newest['epoch']:.2f} of {newest['epochs']:g}, {newest['bits']:.3f} bits per character"
        return f"{state}, {speed()}{left}"

    with heartbeat(line), epoch_bar(describe) as show:

        def watch(values: dict[str, float]) -> None:
            nonlocal tokens, first, newest
            tokens += values["tokens"]
            newest = values
            first = first or (time.perf_counter(), values["epoch"])
            show(values)

        yield watch
