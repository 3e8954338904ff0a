// A compressed sentence encoder in onnxruntime-node; onnxruntime-web is called the same way.
//
//   python examples/loaders/minilm.py build/minilm
//   node examples/web/loaders/onnxruntime_node.mjs build/minilm

import { readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AutoTokenizer, env } from "@huggingface/transformers";
import * as native from "onnxruntime-node";
import { compared } from "./compare.mjs";

const { InferenceSession, Tensor } = native.default ?? native;
const folder = resolve(process.argv[2]);
const FILES = {
  float: "float/onnx/model.onnx",
  int8: "int8/onnx/model_quantized.onnx",
  small: "small/onnx/model_q4.onnx",
};
env.allowRemoteModels = false;
env.localModelPath = folder;
const tokenizer = await AutoTokenizer.from_pretrained("float");
const list = new URL("../sentences.txt", import.meta.url);
const sentences = (await readFile(list, "utf8")).trim().split("\n");

// Returns a function from sentences to their embeddings.
async function load(kind) {
  const session = await InferenceSession.create(join(folder, FILES[kind]));
  return async (texts) => {
    const vectors = [];
    for (const text of texts) {
      const tokens = await tokenizer(text);
      const feed = {};
      for (const name of session.inputNames) {
        feed[name] = new Tensor("int64", tokens[name].data, tokens[name].dims);
      }
      const { data, dims: [, length, size] } = Object.values(await session.run(feed))[0];
      const sum = new Float32Array(size);
      for (let at = 0; at < length * size; at++) sum[at % size] += data[at];
      const norm = Math.hypot(...sum);
      vectors.push(Array.from(sum, (value) => value / norm));
    }
    return vectors;
  };
}

const rows = await compared(load, sentences);
for (const [kind, file] of Object.entries(FILES)) rows[kind].bytes = (await stat(join(folder, file))).size;
console.log(JSON.stringify(rows));
