"""Make the tables and the picture of ``benchmarks.decode``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.points import Point, compare, front, speed_ratio

OURS = "ours, numba"
#: other ways to run ours, at their operating point only
_OUR_OTHERS = ("ours, one by one with times", "ours, plain Python")
SHORT = {
    "beam_width": "width",
    "beam_size": "width",
    "min_token_log_prob": "token",
    "beam_prune_log_prob": "beam",
    "token_min_logp": "token",
    "beam_prune_logp": "beam",
    "beam_size_token": "tokens",
    "beam_threshold": "beam",
    "beam_cut_threshold": "cut",
    "unknown_log_prob": "unk",
    "unk_score_offset": "unk",
    "unk_score": "unk",
    "lm_weight": "alpha",
    "word_score": "beta",
}
#: the targets: title, least ratio, their decoder, with a language model
TARGETS = (
    ("pyctcdecode + kenlm, at every WER it reaches", 60.0, "pyctcdecode", True),
    ("flashlight lexicon + KenLM, at every WER it reaches", 15.0, "flashlight, lexicon", True),
    ("fast-ctc-decoder, no LM, at every WER it reaches", 1.2, "fast-ctc-decoder", False),
)
#: title, least ratio, their decoder, with a language model, widths: as they come, width by width
WIDTH_TARGETS = (
    ("fast-ctc-decoder, no LM, same width 2 to 10", 1.2, "fast-ctc-decoder", False, (2, 5, 10)),
    ("ctc-beam-decoder + 3-gram, width 100", 6.0, "ctc-beam-decoder", True, (100,)),
)
COMPILE_S, FIRST_S, THREADS = 15.0, 0.5, 1.7


def tables(result: dict[str, Any], markdown: bool) -> str:
    """Make all tables, as Markdown or in columns for people."""
    points: list[Point] = result["points"]
    about, made = result["emissions"], result["machine"]
    head = (
        f"{about['utterances']} utterances, {about['words']} words, {about['steps']} steps of {about['vocabulary']} "
        f"tokens ({100 * about['surely_blank']:.0f} % surely blank), greedy WER {100 * about['greedy_wer']:.2f} %; "
        f"LM of {sum(about['lm_ngrams']):,} n-grams.\n"
        f"{made['processor']}, one thread; "
        + ", ".join(f"{k} {v}" for k, v in made["versions"].items())
        + f"; Python {made['python']}; commit {str(made.get('commit'))[:10]}; {result['seconds']:.0f} s in all."
    )
    parts = [head, *result["missing"]]
    for with_lm in (True, False):
        here = [point for point in points if point.with_lm == with_lm]
        title = "With the 3-gram" if with_lm else "Without a language model"
        rows = _operating_rows([p for p in here if p.kind in ("defaults", "tuned")])
        header = ("decoder", "settings", "utterances/s", "WER % [95 %]", "ours is faster by")
        parts.append(_table(f"{title}: operating points", header, rows, markdown))
        columns = ("peer", "its settings", "its utt/s", "its WER %", "our fastest as good", "utt/s", "WER %", "ratio")
        title += ": at every WER that a peer reaches"
        parts.append(_table(title + " (tuned weights)" * with_lm, columns, _front_rows(here), markdown))
        columns, rows = _width_table([p for p in here if p.kind == "width"])
        title = "With the 3-gram" if with_lm else "Without a language model"
        parts.append(_table(title + ": width by width, all else as it comes", columns, rows, markdown))
    weights = [(name, _settings(settings)) for name, settings in result["weights"].items()]
    parts.append(_table("Tuned weights", ("decoder", "weights"), weights, markdown))
    parts.append(_table("Targets", ("target", "asked", "measured", ""), _target_rows(result), markdown))
    return "\n\n".join(parts)


def _operating_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for point in points:
        ours = next(p for p in points if p.decoder == OURS and p.kind == point.kind)
        kind = "as it comes" if point.kind == "defaults" else "tuned"
        ratio = f"{speed_ratio(ours, point):.1f} x"
        rows.append((point.decoder, f"{kind}: {_settings(point.settings)}", _rate(point), _wer(point), ratio))
    return rows


def _front_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    ours = [point for point in points if point.decoder == OURS]
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(p.decoder for p in points if p.decoder not in (OURS, *_OUR_OTHERS)):
        for theirs, mine, ratio in compare(ours, [p for p in points if p.decoder == name]):
            found = (_search(mine), _rate(mine), f"{100 * mine.wer:.2f}") if mine else ("none", "", "")
            their = (name, _search(theirs), _rate(theirs), f"{100 * theirs.wer:.2f}")
            rows.append((*their, *found, f"{ratio:.1f} x" if ratio else "not reached"))
    return rows


def _width_table(points: Sequence[Point]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the columns and the rows, a width each: ours, and every peer's speed, errors and time over ours."""
    names = [name for name in dict.fromkeys(point.decoder for point in points) if name != OURS]
    columns = ["width", "ours, utterances/s", "WER %"]
    for name in names:
        columns += [name, "WER %", "ratio"]
    rows: list[tuple[str, ...]] = []
    for ours in (point for point in points if point.decoder == OURS):
        cells = [str(_width(ours)), _rate(ours), f"{100 * ours.wer:.2f}"]
        for name in names:
            theirs = next((p for p in points if p.decoder == name and _width(p) == _width(ours)), None)
            if theirs is None:
                cells += ["", "", ""]
            else:
                cells += [_rate(theirs), f"{100 * theirs.wer:.2f}", f"{speed_ratio(ours, theirs):.1f} x"]
        rows.append(tuple(cells))
    return columns, rows


def _width(point: Point) -> int:
    return int(next(value for name, value in point.settings.items() if SHORT.get(name) == "width"))


def _width_targets(points: Sequence[Point]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    here = [point for point in points if point.kind == "width"]
    for title, least, name, with_lm, widths in WIDTH_TARGETS:
        theirs = [p for p in here if p.decoder == name and p.with_lm == with_lm and _width(p) in widths]
        ours = {_width(p): p for p in here if p.decoder == OURS and p.with_lm == with_lm}
        ratios = [speed_ratio(ours[_width(p)], p) for p in theirs]
        measured = ", ".join(f"{ratio:.1f}" for ratio in ratios) + " x" if ratios else "not measured"
        verdict = _met(min(ratios) >= least) if ratios else "?"
        rows.append((title, f">= {least:g} x", measured, verdict))

    worse = []
    compared = 0
    for theirs in here:
        if theirs.with_lm and theirs.decoder != OURS:
            mine = next(p for p in here if p.decoder == OURS and p.with_lm and _width(p) == _width(theirs))
            compared += 1
            if mine.wer > theirs.wer:
                rates = f"{100 * mine.wer:.2f} beside {100 * theirs.wer:.2f} %"
                worse.append(f"{theirs.decoder} at width {_width(theirs)}: {rates}")
    title = "WER with the 3-gram at every width, as they come"
    measured = "; ".join(worse) or f"not above that of a peer in {compared} of {compared} pairs"
    rows.append((title, "<= 1 x", measured if compared else "not measured", _met(not worse) if compared else "?"))
    return rows


def _target_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    points: list[Point] = result["points"]
    rows: list[tuple[str, ...]] = []
    for title, least, their_name, with_lm in TARGETS:
        theirs = [p for p in points if p.decoder == their_name and p.with_lm == with_lm]
        if not theirs:
            rows.append((title, f">= {least:g} x", "not measured", "?"))
            continue
        ours = [p for p in points if p.decoder == OURS and p.with_lm == with_lm]
        ratios = [row.ratio for row in compare(ours, theirs)]
        found = [ratio for ratio in ratios if ratio]
        measured = f"{min(found):.1f} to {max(found):.1f} x" if found else "none"
        if len(found) < len(ratios):
            measured += f", {len(ratios) - len(found)} of {len(ratios)} WERs not reached"
        measured += f" (width 100, as they come: {_at_100(ours, theirs):.1f} x)"
        met = len(found) == len(ratios) and min(found) >= least
        rows.append((title, f">= {least:g} x", measured, "met" if met else "MISSED"))
    rows += _width_targets(points)
    gain, times = result["threads"], result["startup"]
    speeds = f"{gain['gain']:.2f} x ({gain['one']:.0f} and {gain['two']:.0f} utterances/s)"
    rows.append(("two threads (texts)", f">= {THREADS} x", speeds, _met(gain["gain"] >= THREADS)))
    cold, reader = times["cold"]["decoder"] + times["cold"]["first utterance"], times["cold"]["language model"]
    said = f"{cold:.1f} s (and {reader:.1f} s for what reads ARPA)"
    rows.append(("compilation of the search, nothing on disk", f"< {COMPILE_S:g} s", said, _met(cold < COMPILE_S)))
    warm = times["warm"]
    first = warm["decoder"] + warm["first utterance"]
    shares = ", ".join(f"{name} {seconds:.3f}" for name, seconds in warm.items())
    measured = f"{first:.2f} s with building the decoder (all: {shares})"
    rows.append(("first utterance, fresh process", f"< {FIRST_S:g} s", measured, _met(first < FIRST_S)))
    return rows


def _at_100(ours: Sequence[Point], theirs: Sequence[Point]) -> float:
    return speed_ratio(*(next(p for p in points if p.kind == "defaults") for points in (ours, theirs)))


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def _rate(point: Point) -> str:
    return f"{point.rate:,.0f}" if point.rate >= 100 else f"{point.rate:.1f}"


def _wer(point: Point) -> str:
    assert point.score is not None
    wer = point.score.wer
    return f"{100 * (wer.rate or 0):.2f} [{100 * (wer.low or 0):.2f}, {100 * (wer.high or 0):.2f}]"


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{SHORT.get(name, name)} {_value(value)}" for name, value in settings.items())


def _search(point: Point) -> str:
    """Format the settings of a point, without its weights, which are in the table of tuned weights."""
    keys = ("width", "token", "tokens", "beam", "cut")
    shown = {k: v for k, v in point.settings.items() if SHORT.get(k, k) in keys}
    return _settings(shown) + (" (untuned)" if point.kind == "defaults" and point.with_lm else "")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return "off" if math.isinf(value) else f"{value:g}"
    return str(value)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"**{title}**", "", *lines])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([title, *(f"  {line.rstrip()}" for line in lines)])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw speed (log) against WER: a panel with the language model and one without; each decoder's front as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points: list[Point] = result["points"]
    names = list(dict.fromkeys(point.decoder for point in points))
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    for axis, with_lm in zip(axes, (True, False), strict=True):
        for number, name in enumerate(names):
            here = [p for p in points if p.decoder == name and p.with_lm == with_lm]
            if not here:
                continue
            best, color = front(here), f"C{number}"
            axis.plot([p.rate for p in here], [100 * p.wer for p in here], ".", color=color, alpha=0.25)
            axis.plot([p.rate for p in best], [100 * p.wer for p in best], "o-", color=color, label=name)
        wers = [100 * p.wer for p in points if p.with_lm == with_lm]
        low = min(wers)
        high = min(max(wers), 2.5 * low)
        axis.set_ylim(low - 0.05 * (high - low) - 0.1, high + 0.05 * (high - low) + 0.1)
        axis.set_xscale("log")
        axis.set_xlabel("utterances per second, one thread")
        axis.set_ylabel("WER, %")
        axis.set_title("3-gram" if with_lm else "no language model")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
