#!/usr/bin/env bash
# transformers 5 forgets the word delimiter of a CTC tokenizer that it has saved itself.
#
# Expected: Wav2Vec2CTCTokenizer with word_delimiter_token="_" writes a space for "_", after save_pretrained and
# from_pretrained too. Version 4.57.1 does.
# Seen (transformers 5.24.0): from_pretrained takes word_delimiter_token of tokenizer_config.json for a special token of
# its own, and the tokenizer has the default "|": the text has "_" in it, and is one word. Folders of version 4 that
# name another delimiter than "|" are read in the same way.
# Exits with 0 while that is so, and with 1 once it changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

run() {
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet --disable-pip-version-check "transformers==$1" numpy
    (cd "$folder" && "$folder/$1/bin/python" - "$2") <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers
from transformers import Wav2Vec2CTCTokenizer

Path("vocab.json").write_text(json.dumps({"<pad>": 0, "_": 1, "a": 2, "b": 3}))
path = [2, 2, 0, 2, 1, 3]
made = Wav2Vec2CTCTokenizer("vocab.json", word_delimiter_token="_")
made.save_pretrained("saved")
loaded = Wav2Vec2CTCTokenizer.from_pretrained("saved")
texts = made.decode(path), loaded.decode(path)

print("transformers", transformers.__version__)
print("text before it is saved:", repr(texts[0]), "after it is loaded:", repr(texts[1]))
expected = {"kept": ("aa b", "aa b"), "lost": ("aa b", "aa_b")}[sys.argv[1]]
sys.exit(0 if texts == expected else "the behaviour has changed")
PYTHON
}

run 4.57.1 kept
run 5.24.0 lost
