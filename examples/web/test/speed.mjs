// Times models in onnxruntime-web's wasm in headless Chromium, in turns; prints JSON.
//
//   node test/speed.mjs URL INPUT.json TURNS MODEL.onnx ...
//
// URL serves the models and the folder vendor. INPUT is { name, shape, data }. The answer is, for
// each turn, the milliseconds [[load, run] of each model].

import { readFile } from "node:fs/promises";
import { withPage } from "./browser.mjs";

const [url, inputFile, turns, ...models] = process.argv.slice(2);
const input = JSON.parse(await readFile(inputFile, "utf8"));
await withPage(async (page) => {
  await page.goto(url);
  const measured = await page.evaluate(
    async ({ input, models, turns }) => {
      const ort = await import("/vendor/ort.wasm.min.mjs");
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = "/vendor/";
      const tensor = new ort.Tensor("float32", Float32Array.from(input.data), input.shape);
      const times = [];
      for (let turn = -1; turn < turns; turn++) {
        const row = [];
        for (const model of models) {
          const bytes = new Uint8Array(await (await fetch(`/${model}`)).arrayBuffer());
          const start = performance.now();
          const session = await ort.InferenceSession.create(bytes);
          const load = performance.now() - start;
          const runs = [];
          for (let run = 0; run < 7; run++) {
            const begin = performance.now();
            await session.run({ [input.name]: tensor });
            runs.push(performance.now() - begin);
          }
          await session.release();
          row.push([load, runs.sort((a, b) => a - b)[3]]);
        }
        // The first turn compiles the wasm.
        if (turn >= 0) times.push(row);
      }
      return times;
    },
    { input, models, turns: Number(turns) },
  );
  console.log(JSON.stringify(measured));
});
