"""``asr tune``: decoder settings by the word error rate on a dev set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from asr.commands.console import audio_bar, check_target, print_either, say, share_bar, shown
from asr.commands.options import (
    DecodingOptions,
    Json,
    MachineOptions,
    ModelPath,
    Resample,
    load_recognizer,
    naming_failures,
    with_groups,
)
from asr.errors import AsrError
from asr.files import cache_folder

if TYPE_CHECKING:
    from asr.data.manifest import Manifest
    from asr.decode.settings import BeamConfig
    from asr.decode.tuned import Rescore
    from asr.lm.neural.network import RnnModel
    from asr.model.contract import AcousticModel
    from asr.tuning.emissions import Emissions
    from asr.tuning.tune import Point, Tuning
    from asr.tuning.tune_rescore import Rescoring


@with_groups
def tune(
    *,
    model: ModelPath,
    manifest: Annotated[Path, Argument(metavar="MANIFEST", help="A dev set: a manifest with its references.")],
    lm: Annotated[Path, Option(help="An n-gram language model: ARPA, plain or gzip, or binary.")],
    rescore: Annotated[Path | None, Option(help="A neural language model: tune it over the best texts.")] = None,
    nbest: Annotated[int, Option(min=2, max=10_000, help="How many of the best texts it looks at.")] = 100,
    cache: Annotated[Path | None, Option(help="Where log-probabilities are kept for the next time.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print what was found and save nothing.")] = False,
    as_json: Json = False,
    resample: Resample = False,
    machine: MachineOptions,
) -> None:
    """Find the beam search's weights and widths for a model and a language model, and save them with the model."""
    from asr.data import manifest as manifests
    from asr.data.text import normalize
    from asr.decode.tuned import FILE, keep_lm
    from asr.lm import ngram
    from asr.model.folder import find_model

    rows = manifests.read(manifest)
    folder = find_model(model)
    if not dry_run:
        check_target(folder / FILE)
    language_model = ngram.load(lm)
    neural = None if rescore is None else _load_neural(rescore, nbest)
    loaded = load_recognizer(model, machine, DecodingOptions("greedy"), precision="fp32", resample=resample).model

    from asr.tuning.rescore import check_fits
    from asr.tuning.tune import decoder_to_tune
    from asr.tuning.tune import tune as search

    # Everything is checked before the network runs over the dev set.
    texts = {u.id: normalize(u.text, loaded.text.normalization) for u in rows}
    decoder = decoder_to_tune(loaded.tokenizer, list(texts.values()), language_model)
    if neural is not None and rescore is not None:
        check_fits(neural[0], loaded.tokenizer, rescore)

    emitted = _emit(loaded, rows, cache or _cache_folder())
    references = [texts[u.id] for u in emitted.utterances]
    with share_bar("trying settings") as reach:
        tuning = search(
            loaded.tokenizer,
            emitted.log_probs,
            references,
            language_model,
            threads=machine.threads,
            decoder=decoder,
            progress=lambda done, total: reach(min(1.0, done / total)),
        )
    found = config = None
    if neural is not None:
        found, config = _tune_rescoring(decoder, tuning, emitted.log_probs, references, neural, machine.threads)

    document = tuning.to_json() | ({"rescoring": found.to_json()} if found else {})
    print_either(as_json, document, "\n".join([*_report(tuning), *(_report_rescoring(found) if found else ())]))
    with naming_failures(emitted.failed):
        if not dry_run:
            facts = {"manifest": str(manifest), "lm": str(lm.resolve())}
            _save(folder, tuning, keep_lm(folder, language_model, lm), facts, found, config)


def _cache_folder() -> Path:
    try:
        return cache_folder() / "log-probs"
    except RuntimeError as error:
        raise AsrError("there is no home folder to keep log-probabilities in; give one with --cache") from error


def _emit(model: AcousticModel, rows: Manifest, cache: Path) -> Emissions:
    """Compute the log-probabilities of the dev set, or find them in the cache."""
    from asr.tuning.emissions import emissions

    with audio_bar(rows.duration_s) as advance:
        emitted = emissions(model, rows, cache, advance)
    done = "found" if emitted.found else "kept"
    say(f"asr: log-probabilities of {len(emitted.log_probs):,} utterances {done} in {shown(emitted.folder)}")
    return emitted


def _load_neural(path: Path, nbest: int) -> tuple[RnnModel, Rescore]:
    """Return the neural model, and its settings before its weights are tuned."""
    from asr.decode.tuned import Rescore
    from asr.lm.neural.folder import load_rnn
    from asr.lm.neural.place import WEIGHTS, find_rnn

    model = load_rnn(path)
    size = (find_rnn(path) / WEIGHTS).stat().st_size
    return model, Rescore(model=str(path), model_bytes=size, nbest=nbest)


def _tune_rescoring(
    decoder: Any,
    tuning: Tuning,
    log_probs: Any,
    references: Sequence[str],
    neural: tuple[RnnModel, Rescore],
    threads: int | None,
) -> tuple[Rescoring, BeamConfig]:
    """Return what rescoring gives, and the settings of the search whose texts it looks at."""
    from asr.tuning.rescore import wider
    from asr.tuning.tune_rescore import tune_rescoring

    assert tuning.best is not None  # a finished search has one
    config = tuning.best.config.model_copy(update=wider(tuning.best.config))
    lists = decoder.with_config(config.model_copy(update={"nbest": neural[1].nbest})).decode_all(log_probs, threads)
    say("asr: weighing the best texts of the beam by the neural language model")
    return tune_rescoring(lists, references, *neural), config


def _save(
    folder: Path,
    tuning: Tuning,
    kept_lm: tuple[str, int],
    facts: dict[str, Any],
    found: Rescoring | None,
    wider: BeamConfig | None,
) -> None:
    """Save the best search; or, if rescoring helps, the wider search before it, and the weights of the rescoring."""
    from asr.decode.tuned import Tuned, write_tuned

    assert tuning.best is not None  # a finished search has one
    best: Point | Rescoring = tuning.best
    config = tuning.best.config
    rescore = None
    if found is not None and wider is not None and found.helps:
        best = found
        config = wider
        rescore = _keep_neural(folder, found.settings)
        facts = facts | {"neural_lm": str(Path(found.settings.model).resolve())}

    measured = {
        "utterances": tuning.utterances,
        "words": tuning.words,
        "wer": best.rate,
        "low": best.low,
        "high": best.high,
        "greedy_wer": tuning.greedy.rate,
    }
    lm, lm_bytes = kept_lm
    tuned = Tuned(config=config, lm=lm, lm_bytes=lm_bytes, rescore=rescore, tuning=facts | measured)
    path = write_tuned(folder, tuned)
    say(f"asr: saved in {shown(path)}; evaluate and transcribe will use it")


def _keep_neural(folder: Path, rescore: Rescore) -> Rescore:
    """Copy the neural model into the model folder, unless it is there already."""
    from asr.decode.tuned import NEURAL_LM
    from asr.lm.neural.place import copy_rnn

    place = Path(rescore.model).resolve()
    own = folder.resolve()
    if not place.is_relative_to(own):
        place = own / NEURAL_LM
        copy_rnn(Path(rescore.model), place)
    return rescore.model_copy(update={"model": str(place.relative_to(own))})


def _report(tuning: Tuning) -> Iterator[str]:
    best = tuning.best
    assert best is not None  # a finished search has one
    yield f"{tuning.utterances:,} utterances, {tuning.words:,} words; greedy WER {_rate(tuning.greedy)}"
    yield ""

    yield "WER % ± half its 95 % interval, alpha down, beta across"
    betas = sorted({beta for _, beta in tuning.surface})
    yield "       " + "".join(f"{beta:>11g}" for beta in betas)
    for alpha in sorted({alpha for alpha, _ in tuning.surface}):
        cells = (_cell(tuning.surface.get((alpha, beta)), best) for beta in betas)
        yield f"{alpha:>7g}" + "".join(f"{cell:>11}" for cell in cells)
    yield ""

    prices = (f"{point.config.unknown_log_prob:g}: {100 * point.rate:.2f}" for point in tuning.unknowns)
    yield "WER % by the price of an unknown word   " + "   ".join(prices)
    yield ""

    columns = ("beam", "token floor", "pruning", "WER %", "differs %", "utterances/s")
    yield "".join(f"{name:>14}" for name in columns) + f", {tuning.threads} threads"
    for point in tuning.searches:
        config = point.config
        row = [str(config.beam_width), _threshold(config.min_token_log_prob), _threshold(config.beam_prune_log_prob)]
        row += [f"{100 * point.rate:.2f}", f"{100 * point.differs:.2f}", f"{tuning.utterances / point.seconds:,.0f}"]
        yield "".join(f"{cell:>14}" for cell in row) + ("   <- chosen" if point is best else "")
    yield ""

    weights = f"alpha {best.config.alpha:g}, beta {best.config.beta:g}, unknown {best.config.unknown_log_prob:g}"
    yield f"best: {weights}, beam {best.config.beam_width}: WER {_rate(best)}"


def _report_rescoring(found: Rescoring) -> Iterator[str]:
    settings = found.settings
    ranked = f"WER {100 * found.before:.2f} % as the beam ranks them"
    oracle = f"{100 * found.oracle:.2f} % if the best one were always chosen"
    yield ""
    yield f"{settings.nbest} best texts, {found.texts:.1f} per utterance on average: {ranked}, {oracle}"
    if found.helps:
        weights = (
            f"weight {settings.weight:g}, word bonus {settings.word_bonus:+g}, beam's scores x {settings.lm_scale:g}"
        )
        yield f"rescored by {settings.model}: {weights}: WER {_rate(found)}"
    else:
        yield f"rescoring by {settings.model} does not help on this set: it is not used"


def _cell(point: Point | None, best: Point) -> str:
    if point is None:
        return ""
    chosen = (point.config.alpha, point.config.beta) == (best.config.alpha, best.config.beta)
    return f"{'*' if chosen else ''}{100 * point.rate:.2f}±{50 * (point.high - point.low):.2f}"


def _rate(point: Point | Rescoring) -> str:
    return f"{100 * point.rate:.2f} % [{100 * point.low:.2f}, {100 * point.high:.2f}]"


def _threshold(value: float | None) -> str:
    return "off" if value is None else f"{value:g}"
