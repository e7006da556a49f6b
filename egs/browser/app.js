// The page: buttons, progress, text, and one line for whatever goes wrong. The model runs in recogniser.js.

import { LONGEST_S, samplesOfFile, startRecording } from "./audio.js";
import { Refusal } from "./refusal.js";

const MODEL = "model/model.onnx";
const SHORTEST_S = 0.1;
const READY = "Ready: record, or choose a file.";

const [recordButton, fileInput, seconds, status, progress, error, text, table, rows] = [
  "record", "file", "seconds", "status", "progress", "error", "text", "words", "rows",
].map((id) => document.getElementById(id));

const worker = startWorker("recogniser.js");
let rate; // samples per second that the model takes; undefined until it is loaded
let recording; // while the microphone is on
let focused; // the control that had the focus when it was switched off

worker.onmessage = ({ data }) => {
  if (data.error) fail(data.error);
  else if (data.words) showResult(data.words);
  else if (data.rate) becomeReady((rate = data.rate));
  else showDownload(data.loaded, data.total);
};
worker.onerror = () => fail("The recogniser does not start: serve the whole folder of this page, and load it again.");
recordButton.onclick = () => (recording ? recording.stop() : attempt(record));
fileInput.onclick = () => (fileInput.value = ""); // so that the same file can be chosen again
fileInput.onchange = () => fileInput.files.length && attempt(() => recogniseFile(fileInput.files[0]));

busy("Loading the model…");
worker.postMessage({ load: MODEL });

/** Start a worker from a blob: one from an address would not be under the policy of this page, and could ask for others. */
function startWorker(name) {
  const script = new Blob([`import ${JSON.stringify(new URL(name, location.href))};`], { type: "text/javascript" });
  return new Worker(URL.createObjectURL(script), { type: "module" });
}

/** Do something, and show why where it fails. */
async function attempt(action) {
  error.textContent = "";
  text.textContent = "";
  table.hidden = true;
  try {
    await action();
  } catch (problem) {
    console.error(problem);
    fail(problem instanceof Refusal ? problem.message : `${problem.message ?? problem}; load this page again.`);
  }
}

async function recogniseFile(file) {
  busy(`Reading ${file.name}…`);
  const samples = await samplesOfFile(file, rate);
  recognise(samples);
}

async function record() {
  busy("Waiting for the microphone…");
  recording = await startRecording(rate);
  const began = performance.now();
  const clock = setInterval(() => {
    const passed = (performance.now() - began) / 1000;
    seconds.textContent = `${Math.floor(passed)} s`;
    if (passed >= LONGEST_S) recording.stop();
  }, 200);
  progress.hidden = true;
  status.textContent = "Recording. Press Stop when you have finished.";
  recordButton.textContent = "Stop";
  switchOn(recordButton);

  let samples;
  try {
    samples = await recording.finished;
  } finally {
    clearInterval(clock);
    recording = undefined;
    seconds.textContent = "";
    recordButton.textContent = "Record";
  }
  if (samples.every((sample) => sample === 0)) {
    throw new Refusal("The microphone gave silence only; check that it is not muted, and record again.");
  }
  recognise(samples);
}

function recognise(samples) {
  const lengthS = samples.length / rate;
  if (lengthS < SHORTEST_S) throw new Refusal(`The sound is ${lengthS.toFixed(2)} s long; at least ${SHORTEST_S} s are needed.`);
  if (!samples.every(Number.isFinite)) throw new Refusal("The sound holds values that are not numbers; choose another file.");
  busy(`Recognising ${lengthS.toFixed(1)} s of sound…`);
  worker.postMessage({ recognise: samples }, [samples.buffer]);
}

function showResult(found) {
  text.textContent = found.map(({ word }) => word).join(" ") || "No words were heard.";
  rows.replaceChildren(...found.map(rowOf));
  table.hidden = !found.length;
  becomeReady();
}

function rowOf({ word, start, end }) {
  const row = document.createElement("tr");
  for (const content of [word, start.toFixed(2), end.toFixed(2)]) row.insertCell().textContent = content;
  return row;
}

function showDownload(loaded, total) {
  if (!total) return; // the server does not say how long the file is
  progress.max = total;
  progress.value = loaded;
}

/** Switch the controls off while something runs that cannot be hurried. */
function busy(what) {
  status.textContent = what;
  progress.removeAttribute("value");
  progress.hidden = false;
  if (document.activeElement !== document.body) focused = document.activeElement;
  recordButton.disabled = true;
  fileInput.disabled = true;
}

function becomeReady() {
  progress.hidden = true;
  status.textContent = READY;
  switchOn(recordButton, fileInput);
}

/** Switch controls on, and put the focus back that was lost when they were switched off. */
function switchOn(...controls) {
  for (const control of controls) control.disabled = false;
  if (document.activeElement === document.body) focused?.focus();
}

/** Show one line; what can still be used is switched on again. */
function fail(message) {
  error.textContent = message;
  progress.hidden = true;
  status.textContent = "";
  if (rate) becomeReady();
}
