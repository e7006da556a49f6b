#!/usr/bin/env bash
# Which white space in ARPA files kenlm's Python module reads. The guess that a blank line ends a section is wrong, and
# so is the guess that white space does not matter: blank lines are skipped inside a section, but one between the counts
# ends them, and a space behind a header, or before the "=" of a count, is an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet kenlm==0.3.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.metadata
import os
import sys

BASE = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>\t0
-99\t<s>\t-0.3
-0.8\t</s>
-0.5\tHELLO\t-0.2
-0.6\tWORLD\t-0.1

\\2-grams:
-0.2\t<s> HELLO
-0.3\tHELLO WORLD

\\end\\
"""
FORMS = {
    "as lmplz writes it": (BASE, True),
    "a blank line behind a section's header": (BASE.replace("\\1-grams:\n", "\\1-grams:\n\n"), True),
    "blank lines inside a section": (BASE.replace("-0.5\tHELLO", "\n \t\n-0.5\tHELLO"), True),
    "CRLF": (BASE.replace("\n", "\r\n"), True),
    "a comment before the model": ("# made by hand\n\n" + BASE, True),
    "text before the model": ("made by hand\n\n" + BASE, False),
    "a blank line between the counts": (BASE.replace("ngram 2", "\nngram 2"), False),
    "a space behind \\data\\": (BASE.replace("\\data\\\n", "\\data\\ \n"), False),
    "a space behind a section's header": (BASE.replace("1-grams:\n", "1-grams: \n"), False),
    "a space before = in a count": (BASE.replace("ngram 1=5", "ngram 1 =5"), False),
    "spaces for tabs": (BASE.replace("\t", " "), False),
    "a byte-order mark": ("\ufeff" + BASE, False),
}

import kenlm

print("kenlm", importlib.metadata.version("kenlm"))
changed = False
for name, (text, expected) in FORMS.items():
    with open("m.arpa", "w", encoding="utf-8", newline="") as file:
        file.write(text)
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # its progress bar
    try:
        score = kenlm.Model("m.arpa").score("HELLO WORLD")
        is_read = abs(score - (-0.2 - 0.3 - 0.1 - 0.8)) < 1e-5
        seen = f"score {score:.3f}"
    except OSError as error:
        is_read, seen = False, "refused: " + " ".join(str(error).split())[-110:]
    finally:
        os.dup2(saved, 2)
    print(f"{'read' if is_read else 'not read':9} {name}: {seen}")
    changed |= is_read != expected
sys.exit(changed)
PY
