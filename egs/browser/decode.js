// Greedy CTC decoding: the most probable token at each step, repeats merged, blanks removed, with the words' times.

const BLANK = 0;
const WORD_START = "▁"; // SentencePiece's mark of a word's start

/** Return runs of one token, blanks left out: [{token, start, end}] in steps. A tie goes to the lower token. */
export function bestPath(logProbs, numSteps, vocabularySize) {
  const spans = [];
  let last = BLANK;
  for (let step = 0; step < numSteps; step++) {
    const token = mostProbable(logProbs, step * vocabularySize, vocabularySize);
    if (token !== BLANK && token === last) {
      spans.at(-1).end = step + 1;
    } else if (token !== BLANK) {
      spans.push({ token, start: step, end: step + 1 });
    }
    last = token;
  }
  return spans;
}

/**
 * Return words with times in seconds, [{word, start, end}], as `asr transcribe` states them.
 *
 * tokens: what each token writes, the blank first. stepS: length of a step. durationS: the end of the sound.
 */
export function wordsOf(spans, tokens, stepS, durationS) {
  const words = [];
  let isOpen = false;
  for (const { token, start, end } of spans) {
    const written = tokens[token].replaceAll(WORD_START, " ");
    if (written.startsWith(" ")) isOpen = false;
    const letters = written.replace(/^ /, "");
    if (!letters) continue;

    if (!isOpen) words.push({ word: "", start: rounded(start * stepS), end: 0 });
    isOpen = true;
    const word = words.at(-1);
    word.word += letters;
    word.end = rounded(Math.min(end * stepS, durationS));
  }
  return words;
}

function mostProbable(logProbs, from, vocabularySize) {
  let best = 0;
  for (let token = 1; token < vocabularySize; token++) {
    if (logProbs[from + token] > logProbs[from + best]) best = token;
  }
  return best;
}

function rounded(seconds) {
  return Math.round(seconds * 1000) / 1000;
}
