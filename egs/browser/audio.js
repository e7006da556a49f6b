// Sound in: from the microphone or a file, as float samples of one channel at the model's rate.

import { Refusal } from "./refusal.js";

/** The longest sound in seconds: the network takes it whole, so memory grows with it. */
export const LONGEST_S = 300;
const PATIENCE_MS = 5000; // audio starts in a tenth of that
const LARGEST_FILE = 100e6; // bytes; five minutes of anything are smaller

/** Return the samples of a file in any format that the browser reads, resampled and mixed down. */
export async function samplesOfFile(file, rate) {
  if (file.size === 0) throw new Refusal(`${file.name} is empty; choose a sound file.`);
  if (file.size > LARGEST_FILE) throw tooLong(file.name);

  let sound;
  try {
    sound = await decoded(await file.arrayBuffer(), rate);
  } catch (error) {
    throw new Refusal(`${file.name}: the browser reads no sound from it; choose a WAV, MP3, FLAC or Ogg file.`, error);
  }
  if (sound.duration > LONGEST_S) throw tooLong(file.name);
  return mixed(sound);
}

/** Record until `stop` is called or the microphone is taken away; `finished` resolves to the samples. */
export async function startRecording(rate) {
  const stream = await microphone();
  let context;
  const release = async () => {
    for (const track of stream.getTracks()) track.stop();
    await context?.close();
  };

  try {
    const source = await connected(stream, rate);
    context = source.context;
    await context.audioWorklet.addModule("recorder.js");
    const recorder = new AudioWorkletNode(context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    const blocks = [];
    const ended = new Promise((resolve) => {
      recorder.port.onmessage = ({ data }) => (data === null ? resolve() : blocks.push(data));
    });
    source.connect(recorder);
    await start(context);

    const stop = () => recorder.port.postMessage("stop");
    stream.getAudioTracks()[0].addEventListener("ended", stop);
    const finished = ended.then(async () => {
      await release();
      return resampled(joined(blocks), context.sampleRate, rate);
    });
    return { stop, finished };
  } catch (error) {
    await release();
    throw error;
  }
}

async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Refusal("The browser gives the microphone to pages from https:// or localhost only; choose a file instead.");
  }
  // What helps a telephone call changes the sound that the model was trained on.
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const reasons = {
      NotFoundError: "There is no microphone; connect one, or choose a file.",
      NotAllowedError: "The microphone is not allowed; allow it in the browser's settings of this page, or choose a file.",
      NotReadableError: "The microphone is in use by another program; close that one, or choose a file.",
    };
    throw new Refusal(reasons[error.name] ?? `The microphone does not start (${error.name}); choose a file instead.`, error);
  }
}

/** Return the microphone in an audio context at the model's rate; at its own rate where the browser wants that. */
async function connected(stream, rate) {
  const context = new AudioContext({ sampleRate: rate });
  try {
    return context.createMediaStreamSource(stream);
  } catch { // Firefox used to connect no microphone to a context of another rate
    await context.close();
    return new AudioContext().createMediaStreamSource(stream);
  }
}

/** Start the audio thread. A browser that finds no audio device may leave it waiting for one. */
async function start(context) {
  const late = new Promise((_, reject) => setTimeout(reject, PATIENCE_MS));
  try {
    await Promise.race([context.resume(), late]);
  } catch (error) {
    throw new Refusal("The browser's audio does not start; is there an audio device? Choose a file instead.", error);
  }
}

/** Decode at a rate. The browser filters when it decodes; an AudioBufferSourceNode may only draw lines between samples. */
function decoded(bytes, rate) {
  return new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
}

/** Resample by way of a WAV file in memory, so that recordings and files go the same way. */
async function resampled(samples, from, to) {
  if (from === to || !samples.length) return samples;
  return mixed(await decoded(wavOf(samples, from), to));
}

/** Return a WAV file of 32-bit floats. */
function wavOf(samples, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 4 * samples.length));
  const write = (at, text) => [...text].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  bytes.setUint32(4, 36 + 4 * samples.length, true);
  write(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); // length of the format's description
  bytes.setUint16(20, 3, true); // floats
  bytes.setUint16(22, 1, true); // channels
  bytes.setUint32(24, rate, true);
  bytes.setUint32(28, 4 * rate, true);
  bytes.setUint16(32, 4, true);
  bytes.setUint16(34, 32, true);
  write(36, "data");
  bytes.setUint32(40, 4 * samples.length, true);
  samples.forEach((sample, i) => bytes.setFloat32(44 + 4 * i, sample, true));
  return bytes.buffer;
}

/** Return the average of all channels. */
function mixed(sound) {
  const samples = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((sample, i) => (samples[i] += sample));
  }
  return sound.numberOfChannels === 1 ? samples : samples.map((sample) => sample / sound.numberOfChannels);
}

function joined(blocks) {
  const samples = new Float32Array(blocks.reduce((length, block) => length + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}

function tooLong(name) {
  return new Refusal(`${name} is too long: this page takes ${LONGEST_S / 60} minutes; 'asr transcribe' takes any length.`);
}
