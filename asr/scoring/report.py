"""The report of a score as one HTML page: it holds all it shows, asks nothing of the network, and runs no code.

Pictures and audio come from the caller, one utterance at a time, and are written as they come: the page is never held
as a whole. Every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from asr.errors import AsrError, os_reason
from asr.files import open_atomic
from asr.scoring.sclite import Aligned
from asr.scoring.tables import Errors, Table, commonest_errors, tables, worst
from asr.scoring.wer import Rate, Score, align_all, format_ends, percent

#: How the words of an alignment are marked; the mark tells them apart without their colour too.
_CLASSES = {"equal": "c", "substitute": "s", "delete": "d", "insert": "i"}
_NAMES = {"s": "substituted", "d": "deleted", "i": "inserted"}
_NOTHING = "∅"
_PLOT_WIDTH, _PLOT_HEIGHT = 900, 220

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}
h3{font-size:1rem;margin:1.8rem 0 .3rem;overflow-wrap:anywhere}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .7rem;text-align:right;border-bottom:1px solid rgba(128,128,128,.35)}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}
.wide{overflow-x:auto}.side{display:flex;flex-wrap:wrap;gap:2.5rem}
.facts td{text-align:left}.note{opacity:.75}
.pair{display:inline-block;vertical-align:top;margin:.15rem .12rem;padding:0 .3rem;border-radius:.25rem}
.pair span{display:block}.s{background:rgba(230,160,0,.35)}
.d{background:rgba(220,50,50,.35)}.i{background:rgba(50,120,230,.35)}
.s span:first-child,.d span:first-child{text-decoration:underline}.i span+span{text-decoration:underline}
img{max-width:100%;height:auto;display:block;margin:.4rem 0}audio{display:block;margin:.4rem 0}
svg{width:100%;height:auto}svg text{fill:currentColor;font-size:12px}
"""
# Nothing is loaded from anywhere, whatever a transcript tries.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Example:
    """What can be heard and seen of an utterance: FLAC and PNG, or a note on why not."""

    id: str
    audio_flac: bytes | None = None
    picture_png: bytes | None = None
    note: str = ""


def write_report(
    path: str | Path,
    score: Score,
    title: str,
    conditions: Mapping[str, str],
    by: Sequence[str] = (),
    num_worst: int = 20,
    examples: Iterable[Example] = (),
    failed: Mapping[str, str] | None = None,
) -> None:
    """Writes the report atomically.

    Args:
        conditions: what the score was measured with, as name and value.
        by: fields for tables beside those by speaker and length.
        num_worst: how many utterances are shown word by word: those with most errors (``asr.scoring.tables.worst``).
        examples: audio and pictures of these utterances, in their order; those without one show their words only.
        failed: id to reason, of utterances that are not in the score.

    Raises:
        AsrError: the file cannot be written.
        ConfigError: no utterance has a field.
    """
    path = Path(path)
    found = tables(score, by)
    try:
        with open_atomic(path) as file:
            for part in _page(score, title, conditions, found, num_worst, examples, failed or {}):
                # Half a character, which JSON can hold, cannot be written as UTF-8.
                file.write(part.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise AsrError(f"{path}: cannot write the report: {os_reason(error)}") from error


def _page(
    score: Score, title: str, conditions: Mapping[str, str], found: Sequence[Table], num_worst: int,
    examples: Iterable[Example], failed: Mapping[str, str],
) -> Iterator[str]:  # fmt: skip
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )
    yield _summary(score, conditions)
    if failed:
        yield f"<h2>Not scored</h2>\n<p>{len(failed):,} of the utterances could not be read:</p>\n<ul>"
        yield "".join(f"<li>{escape(why)}</li>" for why in failed.values()) + "</ul>\n"
    shown = worst(score, num_worst)
    yield _plot(score, {one.id for one in shown})
    for table in found:
        yield _group_table(table)
    yield _error_tables(commonest_errors(score))
    yield "<h2>Utterances with most errors</h2>\n"
    if not shown:
        yield "<p>There is no error.</p>\n"
    aligned_of = align_all([(one.reference, one.hypothesis) for one in shown], score.alignment)
    remaining = iter(examples)
    example = next(remaining, None)
    for one, aligned in zip(shown, aligned_of, strict=True):
        here = example if example is not None and example.id == one.id else Example(one.id)
        rate = (
            "undefined" if not one.counts.reference_length else f"{one.counts.errors / one.counts.reference_length:.0%}"
        )
        facts = [f"{one.counts.errors} errors, WER {rate}", one.facts.speaker and f"speaker {one.facts.speaker}"]
        facts.append("" if one.facts.duration_s is None else f"{one.facts.duration_s:.2f} s")
        yield f'<section><h3 id="{_anchor(one.id)}">{escape(one.id)}</h3>\n'
        yield f'<p class="note">{escape(", ".join(filter(None, facts)))}</p>\n'
        yield f"{_words(aligned)}{_media(here)}</section>\n"
        if example is here:
            example = next(remaining, None)
    yield "</body></html>\n"


def _summary(score: Score, conditions: Mapping[str, str]) -> str:
    interval = score.interval
    rows = [_rate_row("WER", score.wer), _rate_row("CER", score.cer)]
    note = f"[low, high]: {100 * interval.level:g} % percentile bootstrap over {interval.drawn}."
    if score.over_utterances is not None:
        of_wer, of_cer = map(format_ends, score.over_utterances)
        note += f" Over utterances: WER {of_wer}, CER {of_cer}."
    facts = {"utterances": f"{score.utterances:,}", **conditions, "alignment": score.alignment}
    header = ("", "%", "[low, high]", "substitutions", "deletions", "insertions", "length")
    return f'{_table(header, rows, "summary")}<p class="note">{escape(note)}</p>\n' + _table(
        (), [[name, value] for name, value in facts.items()], "facts"
    )


def _rate_row(name: str, rate: Rate) -> list[str]:
    length = f"{rate.reference_length} {rate.unit}"
    kinds = map(str, (rate.substitutions, rate.deletions, rate.insertions))
    return [name, percent(rate.rate), format_ends((rate.low, rate.high)), *kinds, length]


def _group_table(table: Table) -> str:
    header = (table.title, "WER %", "[low, high]", "S", "D", "I", "words", "utterances")
    rows = []
    for group in table.groups:
        wer = group.wer
        numbers = (wer.substitutions, wer.deletions, wer.insertions, wer.reference_length, group.utterances)
        rows.append([group.value, percent(wer.rate), format_ends((wer.low, wer.high)), *map(str, numbers)])
    return f"<h2>By {escape(table.title)}</h2>\n{_table(header, rows, 'by')}"


def _error_tables(errors: Errors) -> str:
    pairs = [[ref, hyp, str(count)] for ref, hyp, count in errors.substitutions]
    deleted = [[word, str(count)] for word, count in errors.deletions]
    inserted = [[word, str(count)] for word, count in errors.insertions]
    return (
        '<h2>Commonest errors</h2>\n<div class="side">'
        + _table(("substituted", "by", "times"), pairs, "errors")
        + _table(("deleted", "times"), deleted, "errors")
        + _table(("inserted", "times"), inserted, "errors")
        + "</div>\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide"><table class="{kind}">{thead}<tbody>\n{body}</tbody></table></div>\n'


def _words(aligned: Aligned) -> str:
    """The reference above the hypothesis, word by word."""
    pairs = []
    for kind, ref, hyp in aligned:
        mark = _CLASSES[kind]
        said = f' title="{_NAMES[mark]}"' if mark in _NAMES else ""
        above, below = (escape(_NOTHING if word is None else word) for word in (ref, hyp))
        pairs.append(f'<span class="pair {mark}"{said}><span>{above}</span><span>{below}</span></span>')
    return f'<div class="words" role="group" aria-label="reference above hypothesis">{" ".join(pairs)}</div>\n'


def _media(example: Example) -> str:
    out = ""
    if example.audio_flac is not None:
        out += f'<audio controls preload="none" src="{_data("audio/flac", example.audio_flac)}"></audio>\n'
    if example.picture_png is not None:
        alternative = f"Spectrogram and token posteriors of {example.id}"
        out += f'<img alt="{escape(alternative)}" src="{_data("image/png", example.picture_png)}">\n'
    return out + (f'<p class="note">{escape(example.note)}</p>\n' if example.note else "")


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _anchor(id_: str) -> str:
    """A name for a link: no two ids share one, whatever is in them."""
    return f"utt-{id_.encode('utf-8', 'surrogatepass').hex()}"


def _plot(score: Score, shown: set[str]) -> str:
    """WER of each utterance, the highest first; those shown below are dots that lead to them."""
    rated = [(one.counts.errors / max(1, one.counts.reference_length), one) for one in score.per_utterance]
    rated.sort(key=lambda pair: -pair[0])
    # Above 150 % all is equally wrong: one such utterance must not flatten all others.
    top = max(0.01, min(1.5, rated[0][0]))
    left, bottom, width, height = 45, _PLOT_HEIGHT - 30, _PLOT_WIDTH - 60, _PLOT_HEIGHT - 45

    def y(rate: float) -> str:
        return f"{bottom - height * min(rate, top) / top:.1f}"

    step = width / len(rated)
    path, before = [f"M{left} {bottom}"], None
    for rank, (rate, _) in enumerate(rated):
        if rate != before:  # equal neighbours make one line: the path does not grow with the error-free ones
            path.append(f"H{left + rank * step:.1f}V{y(rate)}")
            before = rate
    dots = "".join(
        f'<a href="#{_anchor(one.id)}">'
        f'<circle cx="{left + (rank + 0.5) * step:.1f}" cy="{y(rate)}" r="3" fill="#dc3232">'
        f"<title>{escape(one.id)}: {rate:.0%}</title></circle></a>"
        for rank, (rate, one) in enumerate(rated)
        if one.id in shown
    )
    perfect = sum(not one.counts.errors for one in score.per_utterance)
    ticks = "".join(
        f'<text x="{left - 6}" y="{y(rate)}" dy="4" text-anchor="end">{rate:.0%}</text>' for rate in (0.0, top / 2, top)
    )
    return (
        f"<h2>WER by utterance</h2>\n<p>{perfect:,} of {score.utterances:,} utterances have no error.</p>\n"
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" role="img" aria-label="WER of each utterance, highest first">'
        f'<path fill="#3278e6" fill-opacity="0.4" d="{"".join(path)}H{left + width:.1f}V{bottom}Z"></path>'
        '<path fill="none" stroke="currentColor" stroke-opacity="0.5" '
        f'd="M{left} {bottom - height}V{bottom}H{left + width}"></path>{ticks}{dots}'
        f'<text x="{left + width / 2}" y="{_PLOT_HEIGHT - 8}" text-anchor="middle">'
        "utterances, highest WER first</text></svg>\n"
    )
