// Runs on the audio thread: hands on what the microphone gives, one channel, and says when it has stopped.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.isOn = true;
    this.port.onmessage = () => {
      this.isOn = false;
      this.port.postMessage(null); // the last message: nothing recorded is still under way
    };
  }

  process([channels]) {
    if (this.isOn && channels.length) this.port.postMessage(channels[0].slice());
    return this.isOn;
  }
}

registerProcessor("recorder", Recorder);
