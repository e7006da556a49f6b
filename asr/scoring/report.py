"""Write the report of a score as one HTML page: the page loads nothing from the network and runs no code.

Pictures and audio come from the caller, one utterance at a time, and are written as they come: the page is never held
as a whole. Every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from asr.errors import AsrError, harmless, os_reason
from asr.files import open_atomic
from asr.scoring.sclite import WordAlignment
from asr.scoring.tables import COLUMNS, GroupTable, commonest_errors, tables, worst
from asr.scoring.wer import Score, UtteranceScore, align_all, format_ends

#: the class and the title of the words of an alignment; their marks tell them apart without colour too
_MARKS = {
    "equal": ("c", ""),
    "substitute": ("s", "substituted"),
    "delete": ("d", "deleted"),
    "insert": ("i", "inserted"),
}
_NO_WORD = "∅"
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
# Nothing is loaded from anywhere, whatever a transcript holds.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class ReportExample:
    """Hold what can be heard and seen of an utterance: FLAC and PNG, or a note on why not."""

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
    examples: Iterable[ReportExample] = (),
    failed: Mapping[str, str] | None = None,
) -> None:
    """Write the report atomically.

    Args:
        conditions: what the score was measured with, as name and value.
        by: fields for tables beside those by speaker and length.
        num_worst: how many utterances are shown word by word: those with most errors (``asr.scoring.tables.worst``).
        examples: audio and pictures of these utterances, in their order; an utterance without one shows its words only.
        failed: id to reason, of utterances that are not in the score.

    Raises:
        AsrError: the file cannot be written.
        ConfigError: no utterance has a field.
    """
    path = Path(path)
    shown = worst(score, num_worst)
    groups = tables(score, by)
    try:
        with open_atomic(path) as file:

            def write(html: str) -> None:
                file.write(harmless(html))

            write(_head(title) + _summary(score, conditions))
            if failed:
                reasons = "".join(f"<li>{escape(why)}</li>" for why in failed.values())
                write(f"<h2>Not scored</h2>\n<p>{len(failed):,} of the utterances could not be read:</p>\n")
                write(f"<ul>{reasons}</ul>\n")
            write(_plot(score, {one.id for one in shown}))
            for table in groups:
                write(_group_table(table))
            write(_error_tables(score))
            write("<h2>Utterances with most errors</h2>\n" + ("" if shown else "<p>There is no error.</p>\n"))
            for section in _utterances(shown, score.alignment, examples):
                write(section)
            write("</body></html>\n")
    except OSError as error:
        raise AsrError(f"{path}: cannot write the report: {os_reason(error)}") from error


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )


def _summary(score: Score, conditions: Mapping[str, str]) -> str:
    note = f"[low, high]: {score.interval.description}."
    if score.over_utterances is not None:
        wer, cer = map(format_ends, score.over_utterances)
        note += f" Over utterances: WER {wer}, CER {cer}."

    header = ("", "%", "[low, high]", "substitutions", "deletions", "insertions", "length")
    rows = [
        [name, *rate.cells(), f"{rate.reference_length} {rate.unit}"]
        for name, rate in (("WER", score.wer), ("CER", score.cer))
    ]
    facts = {"utterances": f"{score.utterances:,}", **conditions, "alignment": score.alignment}
    return f'{_table(header, rows, "summary")}<p class="note">{escape(note)}</p>\n{_table((), facts.items(), "facts")}'


def _group_table(table: GroupTable) -> str:
    rows = [group.cells() for group in table.groups]
    return f"<h2>By {escape(table.title)}</h2>\n{_table((table.title, *COLUMNS), rows, 'by')}"


def _error_tables(score: Score) -> str:
    headers = {
        "substitutions": ("substituted", "by", "times"),
        "deletions": ("deleted", "times"),
        "insertions": ("inserted", "times"),
    }

    errors = commonest_errors(score)
    parts = [
        _table(header, [map(str, row.values()) for row in errors[kind]], "errors") for kind, header in headers.items()
    ]
    return f'<h2>Commonest errors</h2>\n<div class="side">{"".join(parts)}</div>\n'


def _table(header: Sequence[str], rows: Iterable[Iterable[str]], kind: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide"><table class="{kind}">{thead}<tbody>\n{body}</tbody></table></div>\n'


def _utterances(shown: Sequence[UtteranceScore], alignment: str, examples: Iterable[ReportExample]) -> Iterator[str]:
    """Yield a section for each utterance; an example is taken when the one before it is written."""
    all_aligned = align_all([(one.reference, one.hypothesis) for one in shown], alignment)
    # An example is made when it is asked for, so that one at a time is in memory.
    remaining = iter(examples)
    example = next(remaining, None)
    for one, aligned in zip(shown, all_aligned, strict=True):
        length = one.counts.reference_length
        facts = [f"{one.counts.errors} errors", f"WER {one.counts.errors / length:.0%}" if length else "WER undefined"]

        if one.info.speaker:
            facts.append(f"speaker {one.info.speaker}")
        if one.info.duration_s is not None:
            facts.append(f"{one.info.duration_s:.2f} s")

        media = ""
        if example is not None and example.id == one.id:
            media = _media(example)
            example = next(remaining, None)

        yield (
            f'<section><h3 id="{_anchor(one.id)}">{escape(one.id)}</h3>\n'
            f'<p class="note">{escape(", ".join(facts))}</p>\n{_words(aligned)}{media}</section>\n'
        )


def _words(aligned: WordAlignment) -> str:
    """Show the reference above the hypothesis, word by word."""
    pairs = []
    for kind, ref, hyp in aligned:
        mark, name = _MARKS[kind]
        title = f' title="{name}"' if name else ""
        above, below = (escape(_NO_WORD if word is None else word) for word in (ref, hyp))
        pairs.append(f'<span class="pair {mark}"{title}><span>{above}</span><span>{below}</span></span>')
    return f'<div class="words" role="group" aria-label="reference above hypothesis">{" ".join(pairs)}</div>\n'


def _media(example: ReportExample) -> str:
    html = ""
    if example.audio_flac is not None:
        html += f'<audio controls preload="none" src="{_data("audio/flac", example.audio_flac)}"></audio>\n'

    if example.picture_png is not None:
        alternative = f"Spectrogram and token posteriors of {example.id}"
        html += f'<img alt="{escape(alternative)}" src="{_data("image/png", example.picture_png)}">\n'

    if example.note:
        html += f'<p class="note">{escape(example.note)}</p>\n'
    return html


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _anchor(id_: str) -> str:
    """Return a name for a link: no two ids share one, whatever is in them."""
    return f"utt-{id_.encode('utf-8', 'surrogatepass').hex()}"


def _plot(score: Score, shown: set[str]) -> str:
    """Draw the WER of each utterance, the highest first; those shown below are dots that link to them."""
    rated = [(one.counts.errors / max(1, one.counts.reference_length), one.id) for one in score.per_utterance]
    rated.sort(key=lambda pair: -pair[0])
    # Above 150 % all is equally wrong: one such utterance must not flatten all others.
    top = max(0.01, min(1.5, rated[0][0]))
    left, bottom, width, height = 45, _PLOT_HEIGHT - 30, _PLOT_WIDTH - 60, _PLOT_HEIGHT - 45

    step = width / len(rated)

    def y(rate: float) -> str:
        return f"{bottom - height * min(rate, top) / top:.1f}"

    # Equal neighbours make one line: the path does not grow with the utterances without errors.
    path = f"M{left} {bottom}"
    for rank, ((before, _), (rate, _)) in enumerate(pairwise([(-1.0, ""), *rated])):
        if rate != before:
            path += f"H{left + rank * step:.1f}V{y(rate)}"
    path += f"H{left + width:.1f}V{bottom}Z"

    dots = "".join(
        f'<a href="#{_anchor(id_)}"><circle cx="{left + (rank + 0.5) * step:.1f}" cy="{y(rate)}" r="3" fill="#dc3232">'
        f"<title>{escape(id_)}: {rate:.0%}</title></circle></a>"
        for rank, (rate, id_) in enumerate(rated)
        if id_ in shown
    )
    ticks = "".join(
        f'<text x="{left - 6}" y="{y(rate)}" dy="4" text-anchor="end">{rate:.0%}</text>' for rate in (0.0, top / 2, top)
    )
    perfect = sum(not one.counts.errors for one in score.per_utterance)
    return (
        f"<h2>WER by utterance</h2>\n<p>{perfect:,} of {score.utterances:,} utterances have no error.</p>\n"
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" role="img" aria-label="WER of each utterance, highest first">'
        f'<path fill="#3278e6" fill-opacity="0.4" d="{path}"></path>'
        '<path fill="none" stroke="currentColor" stroke-opacity="0.5" '
        f'd="M{left} {bottom - height}V{bottom}H{left + width}"></path>{ticks}{dots}'
        f'<text x="{left + width / 2}" y="{_PLOT_HEIGHT - 8}" text-anchor="middle">'
        "utterances, highest WER first</text></svg>\n"
    )
