// What an ONNX file says about itself. onnxruntime-web does not show it, so the file's outermost fields are read here.

const METADATA_PROPS = 14; // of ModelProto, in onnx.proto; each has a key (1) and a value (2)
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** Return the metadata of a model as {key: value}, all strings; throw where the bytes are no protocol buffer. */
export function readMetadata(model) {
  const properties = {};
  for (const { number, bytes } of fieldsOf(model)) {
    if (number !== METADATA_PROPS || bytes === null) continue;
    const texts = {};
    for (const field of fieldsOf(bytes)) texts[field.number] = new TextDecoder().decode(field.bytes);
    properties[texts[1]] = texts[2] ?? "";
  }
  return properties;
}

/** Yield the fields of a message: {number, bytes}; numbers have no bytes. The graph is stepped over, not read. */
function* fieldsOf(message) {
  let at = 0;
  while (at < message.length) {
    const [tag, afterTag] = varint(message, at);
    const number = Math.floor(tag / 8);
    const kind = tag % 8;
    at = afterTag;

    let length = 0;
    if (kind === VARINT) at = varint(message, at)[1];
    else if (kind === FIXED64) length = 8;
    else if (kind === BYTES) [length, at] = varint(message, at);
    else if (kind === FIXED32) length = 4;
    else throw new Error("not a protocol buffer");

    if (at + length > message.length) throw new Error("the file is cut short");
    yield { number, bytes: kind === BYTES ? message.subarray(at, at + length) : null };
    at += length;
  }
}

/** Return a number of seven bits per byte, lowest first, and where it ends. Products, as shifts stop at 32 bits. */
function varint(message, at) {
  let value = 0;
  let scale = 1;
  for (let size = 0; size < 10; size++) {
    if (at >= message.length) throw new Error("the file is cut short");
    const byte = message[at++];
    value += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte < 0x80) return [value, at];
  }
  throw new Error("not a protocol buffer");
}
