// A web worker that loads the model and runs it, so that the page stays alive while the processor is busy.
//
// In:  {load: address of model.onnx}                 then {recognise: samples}
// Out: {loaded, total} bytes, {rate} when ready      {words}; {error} of either

import { bestPath, wordsOf } from "./decode.js";
import { readMetadata } from "./metadata.js";
import { Refusal } from "./refusal.js";

const RUN_AGAIN = "write one with egs/browser/run.sh, and load this page again.";
let ort;
let session;
let model; // {rate, tokens, stepS}

self.onmessage = async ({ data }) => {
  try {
    if (data.load) await load(data.load);
    else self.postMessage({ words: await recognise(data.recognise) });
  } catch (error) {
    console.error(error);
    self.postMessage({ error: error instanceof Refusal ? error.message : `${messageOf(error)}; load this page again.` });
  }
};

async function load(address) {
  try {
    ort = await import("./vendor/ort.wasm.min.mjs");
  } catch (error) {
    throw new Refusal("vendor/ does not hold onnxruntime-web: run egs/browser/fetch.sh, and load this page again.", error);
  }
  ort.env.wasm.numThreads = 1; // more need headers that a plain web server does not send

  const bytes = await download(address);
  model = describe(bytes, address);
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Refusal(`${address} does not load (${messageOf(error)}); ${RUN_AGAIN}`, error);
  }
  checkInputs(address);
  self.postMessage({ rate: model.rate });
}

/** Return the bytes of a file, and say how far it is. */
async function download(address) {
  const response = await fetch(new URL(address, import.meta.url), { cache: "no-cache" }); // another model may be there by now
  if (response.status === 404) throw new Refusal(`There is no ${address} beside this page: ${RUN_AGAIN}`);
  if (!response.ok) throw new Refusal(`${address}: the server answers ${response.status}; load this page again.`);

  const total = Number(response.headers.get("Content-Length"));
  const blocks = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    blocks.push(value);
    loaded += value.length;
    self.postMessage({ loaded, total });
  }
  return new Uint8Array(await new Blob(blocks).arrayBuffer());
}

/** Return what the model's file says of its rate, tokens and steps. */
function describe(bytes, address) {
  try {
    const { sample_rate_hz: rate, tokens, stride, hop_s: hopS } = readMetadata(bytes);
    const described = { rate: Number(rate), tokens: JSON.parse(tokens), stepS: Number(stride) * Number(hopS) };
    if (!(described.rate > 0 && described.stepS > 0 && Array.isArray(described.tokens))) throw new Error("no description");
    return described;
  } catch (error) {
    throw new Refusal(`${address} is not a model that 'asr export' wrote: ${RUN_AGAIN}`, error);
  }
}

function checkInputs(address) {
  const names = session.inputNames;
  if (!names.includes("samples")) {
    throw new Refusal(`${address} takes features, not sound: write it with 'asr export MODEL OUT --features'.`);
  }
  if (names.some((name) => name !== "samples" && name !== "num_samples")) {
    throw new Refusal(`${address} was written for streaming: write it without --streaming.`);
  }
}

/** Return the words of samples at the model's rate. */
async function recognise(samples) {
  const inputs = {
    samples: new ort.Tensor("float32", samples, [1, samples.length]),
    num_samples: new ort.Tensor("int64", [BigInt(samples.length)], [1]),
  };
  const { log_probs: logProbs, num_steps: numSteps } = await session.run(inputs);
  const spans = bestPath(logProbs.data, Number(numSteps.data[0]), logProbs.dims[2]);
  return wordsOf(spans, model.tokens, model.stepS, samples.length / model.rate);
}

/** Return the message of whatever was thrown: the runtime also throws numbers. */
function messageOf(error) {
  return error?.message ?? String(error);
}
