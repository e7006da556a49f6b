"""Make a RESULTS.md table from runs that differ in their seed: one row per run, and the mean with its interval.

    python egs/results.py [--greedy] MANIFEST RUN [RUN ...]

Each run is decoded as it was tuned; greedily if it was not tuned, or with --greedy.

The interval of the mean is a bootstrap of the errors of all runs together, over the same units as the interval of each
run (speakers if they are known). It tells how much the result might change with another test set of this size, not with
another seed.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from asr.data import manifest
from asr.decode.choose import decoder_for
from asr.decode.options import DecoderOptions
from asr.errors import AsrError
from asr.evaluate import MARKDOWN_HEADER, evaluate, markdown_row
from asr.model.checkpoint import load_model
from asr.model.folder import find_model
from asr.scoring.bootstrap import bootstrap_interval


def main(manifest_path: str, *runs: str, greedy: bool = False) -> None:
    rows = manifest.read(manifest_path)
    print(MARKDOWN_HEADER)
    rates, errors, lengths = [], [0] * len(rows), [0] * len(rows)
    for run in runs:
        folder = find_model(Path(run))
        model = load_model(run)
        options = DecoderOptions("greedy" if greedy else "")
        result = evaluate(model, rows, decoder_for(folder, model.tokenizer, options))
        print(markdown_row(model, result))
        assert result.score.wer.rate is not None and not result.failed
        rates.append(100 * result.score.wer.rate)
        for i, one in enumerate(result.score.per_utterance):
            errors[i] += one.counts.errors
            lengths[i] += one.counts.reference_length
    interval = result.score.interval
    speakers = [u.speaker for u in rows] if interval.unit == "speaker" else None
    low, high = bootstrap_interval(errors, lengths, speakers)
    assert low is not None and high is not None
    spread = f", standard deviation {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    mean = f"{statistics.mean(rates):.2f} % [{100 * low:.2f}, {100 * high:.2f}] over {interval.drawn}"
    print(f"\nMean WER of {len(rates)} runs: {mean}{spread}")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--greedy"]
    if len(given) < 2:
        sys.exit(__doc__)
    try:
        main(*given, greedy="--greedy" in sys.argv)
    except AsrError as error:
        sys.exit(f"results.py: {error}")
