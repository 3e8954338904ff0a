// A compressed sentence encoder in transformers.js, in Node.
//
//   python examples/loaders/minilm.py build/minilm
//   node examples/web/loaders/transformers.mjs build/minilm
//
// Only `dtype` changes: q4 finds the compressed file, onnx/model_q4.onnx.

import { readFile, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";
import { compared } from "./compare.mjs";

env.allowRemoteModels = false;
env.localModelPath = resolve(process.argv[2]);
const list = new URL("../sentences.txt", import.meta.url);
const sentences = (await readFile(list, "utf8")).trim().split("\n");

// Returns a function from sentences to their embeddings.
async function load(repository, dtype) {
  const encoder = await pipeline("feature-extraction", repository, { dtype });
  return async (texts) => (await encoder(texts, { pooling: "mean", normalize: true })).tolist();
}

const rows = await compared(load, sentences);
const names = { float: "model", int8: "model_quantized", small: "model_q4" };
for (const [kind, name] of Object.entries(names)) {
  rows[kind].bytes = (await stat(`${env.localModelPath}/${kind}/onnx/${name}.onnx`)).size;
}
console.log(JSON.stringify(rows));
