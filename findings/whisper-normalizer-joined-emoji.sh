#!/usr/bin/env bash
# Whisper's text normaliser leaves the joiners of an emoji behind as words that nobody sees, and jiwer counts them.
#
# Expected: BasicTextNormalizer removes marks, symbols and punctuation, so "a [family emoji] family" becomes "a family",
# and its word error rate against "a family" is 0.
# Seen (whisper-normalizer 0.1.12, jiwer 4.0.0): the parts of the emoji become spaces, but each zero width joiner
# (U+200D, category Cf, which is not among the removed M, S and P) stays as a word of its own: 4 words, 2 of them
# invisible, a word error rate of 100 %. Zero width spaces, soft hyphens and byte order marks stay inside words too.
# Exits with 0 while that is so, and with 1 once it changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check whisper-normalizer==0.1.12 jiwer==4.0.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer

print("whisper-normalizer", version("whisper-normalizer"), "with jiwer", version("jiwer"))
normalize = BasicTextNormalizer()
words = normalize("a \U0001f468\u200d\U0001f469\u200d\U0001f467 family").split()
rate = jiwer.wer("a family", " ".join(words))
print("words:", ascii(words))
print(f"word error rate against 'a family': {rate:.0%}")
byte_order_mark = normalize("\ufeffstart")
print("after a byte order mark:", ascii(byte_order_mark))

as_seen = words == ["a", "\u200d", "\u200d", "family"] and rate == 1.0 and byte_order_mark == "\ufeffstart"
sys.exit(0 if as_seen else "the behaviour has changed")
PYTHON
