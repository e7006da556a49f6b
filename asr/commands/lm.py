"""``asr lm``: parse, call one library function, print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.console import check_target, print_json, print_result, say, shown
from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.lm.estimate import Watcher
    from asr.lm.model import NgramModel

app = typer.Typer(help="N-gram language models: estimate, measure, build.")

Texts = Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Plain, gzip, a manifest, or - for stdin.")]
Model = Annotated[Path, typer.Argument(metavar="LM", help="ARPA, ARPA as gzip, or the binary form.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def train(
    texts: Texts,
    out: Annotated[Path, typer.Option(help="Where to write: .arpa, .arpa.gz, or another name for the binary form.")],
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
    as_json: Json = False,
) -> None:
    """Estimate an interpolated modified Kneser-Ney model of a text."""
    from asr.lm import ngram

    try:
        thresholds = [int(n) for n in prune.split(",")]
    except ValueError as error:
        raise ConfigError(f"--prune takes whole numbers with commas between, got '{prune}'", key="prune") from error
    check_target(out)
    words = None if vocab is None else {word for line in ngram.read_lines([vocab]) for word in line.split()}
    with _text_bar() as progress:
        model = ngram.train(
            ngram.read_lines(texts), order, prune=thresholds, vocab=words, skip_symbols=skip_symbols, progress=progress,
            discount_fallback=ngram.FALLBACK_DISCOUNTS if discount_fallback else None,
        )  # fmt: skip
    ngram.write(model, out)
    _print_model(model, out, as_json)


@app.command()
def perplexity(lm: Model, texts: Texts, as_json: Json = False) -> None:
    """Measure how well a model predicts a text."""
    from asr.lm import ngram

    result = ngram.perplexity(ngram.load(lm), ngram.read_lines(texts))
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

    check_target(out)
    model = ngram.load(lm)
    ngram.write(model, out)
    _print_model(model, out, as_json)


def _print_model(model: NgramModel, out: Path, as_json: bool) -> None:
    counts = {f"{n}-grams": count for n, count in enumerate(model.counts, start=1)}
    if as_json:
        print_json({"lm": str(out), "ngrams": list(counts.values())})
    else:
        print_result(f"{shown(out)}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


@contextmanager
def _text_bar() -> Iterator[Watcher]:
    """Lines and words so far, on stderr: a spinner on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("counting n-grams")
        told = 0

        def watch(lines: int, words: int) -> None:
            nonlocal told
            bar.update(task, description=f"counted {lines:,} lines, {words:,} words")
            if not console.is_terminal and words >= told + 10_000_000:
                told = words
                say(f"counted {lines:,} lines, {words:,} words")

        yield watch
