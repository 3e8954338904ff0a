// Runs models in onnxruntime-node and in onnxruntime-web's wasm, both in Node; prints JSON.
//
//   node test/run.mjs INPUT.json MODEL.onnx ...
//
// INPUT is { name, shape, data }; the answer is { engine: [outputs of each model] }.

import { readFile } from "node:fs/promises";
import * as native from "onnxruntime-node";
import * as web from "onnxruntime-web/wasm";

const [inputFile, ...models] = process.argv.slice(2);
const { name, shape, data } = JSON.parse(await readFile(inputFile, "utf8"));
web.env.wasm.numThreads = 1;
const outputs = {};
for (const [engine, ort] of Object.entries({ node: native.default ?? native, wasm: web })) {
  outputs[engine] = [];
  for (const model of models) {
    const session = await ort.InferenceSession.create(new Uint8Array(await readFile(model)));
    const input = new ort.Tensor("float32", Float32Array.from(data), shape);
    const results = await session.run({ [name]: input });
    outputs[engine].push(Array.from(results[session.outputNames[0]].data));
    await session.release();
  }
}
console.log(JSON.stringify(outputs));
