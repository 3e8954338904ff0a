// Loads one sentence encoder in three sizes, measures each, and ranks sentences by a query.

import { env, pipeline } from "./vendor/transformers.min.js";
import { fetched } from "./fetched.js";

const KINDS = {
  float: { title: "Float, 32 bits", dtype: "fp32" },
  int8: { title: "ONNX Runtime int8", dtype: "q8" },
  small: { title: "qqonnx", dtype: "q4" },
};
const SHOWN = 8;
const FOLDER = "models/minilm/";
const VENDOR = new URL("vendor/ort-wasm-simd-threaded.asyncify", import.meta.url).href;

const element = (id) => document.getElementById(id);
const models = {};
const index = { sentences: [], vectors: {} };
let bar;

env.allowRemoteModels = false;
env.allowLocalModels = true; // off in browsers by default
env.localModelPath = FOLDER;
env.useBrowserCache = false;
env.useWasmCache = false;
Object.assign(env.backends.onnx.wasm, { numThreads: 1, wasmPaths: { mjs: `${VENDOR}.mjs`, wasm: `${VENDOR}.wasm` } });

// The model comes at the chosen speed; the tokenizer, which is the same for all, comes as it is.
let sent = 0;
env.fetch = async (url, options) => {
  if (!String(url).endsWith(".onnx")) return fetch(url, options);
  const found = await fetched(String(url), Number(element("speed").value), (share) => { bar.value = share; });
  sent = found.sent;
  return new Response(found.bytes, { headers: { "Content-Length": found.bytes.length } });
};

function newCard(id) {
  const card = element(id);
  card.replaceChildren(element("card").content.cloneNode(true));
  card.querySelector("h2").textContent = KINDS[id].title;
  return card;
}

async function load(id) {
  const card = element(id);
  bar = card.querySelector("progress");
  const start = performance.now();
  const encoder = await pipeline("feature-extraction", id, { dtype: KINDS[id].dtype, device: "wasm" });
  models[id] = { encoder, sent };
  await ask(id);
  models[id].first = performance.now() - start;
  bar.hidden = true;
  card.querySelector(".bytes").textContent = `${(sent / 1e6).toFixed(1)} MB`;
  card.querySelector(".first").textContent = `${(models[id].first / 1000).toFixed(2)} s`;
}

async function ask(id) {
  const model = models[id];
  const start = performance.now();
  const { data } = await model.encoder(element("query").value, { pooling: "mean", normalize: true });
  const vectors = index.vectors[id];
  const likeness = index.sentences.map((_, at) => {
    let sum = 0;
    for (let place = 0; place < data.length; place++) sum += data[place] * vectors[at * data.length + place];
    return sum;
  });
  const order = index.sentences.map((_, at) => at).sort((left, right) => likeness[right] - likeness[left]);
  Object.assign(model, { vector: Array.from(data), order, each: performance.now() - start });
  show(id);
}

function show(id) {
  const { order, each } = models[id];
  const expected = new Set(models.float.order.slice(0, SHOWN));
  element(id).querySelector(".each").textContent = `${each.toFixed(0)} ms`;
  element(id).querySelector(".ranking").replaceChildren(...order.slice(0, SHOWN).map((at) => {
    const item = document.createElement("li");
    item.textContent = index.sentences[at];
    item.classList.toggle("other", !expected.has(at));
    return item;
  }));
}

function judge() {
  const { float, int8, small } = models;
  const times = (left, right) => (left / right).toFixed(1);
  const sooner = float.first >= small.first
    ? `${times(float.first, small.first)} times sooner` : `${times(small.first, float.first)} times later`;
  const shared = (model) => {
    const first = new Set(float.order.slice(0, SHOWN));
    return model.order.slice(0, SHOWN).filter((at) => first.has(at)).length;
  };
  element("verdict").textContent =
    `qqonnx: ${times(float.sent, small.sent)} times fewer bytes than float and ${times(int8.sent, small.sent)} times fewer ` +
    `than int8; its first answer comes ${sooner} than float's. ` +
    `Of the float model's first ${SHOWN} sentences qqonnx finds ${shared(small)}, int8 ${shared(int8)}.`;
}

async function loadAll() {
  element("verdict").textContent = "";
  for (const id of Object.keys(KINDS)) {
    await models[id]?.encoder.dispose();
    delete models[id];
    newCard(id);
  }
  for (const id of Object.keys(KINDS)) await load(id);
  judge();
}

async function askAll() {
  for (const id of Object.keys(KINDS)) await ask(id);
  judge();
}

async function main() {
  const response = await fetch(`${FOLDER}sentences.json`);
  if (!response.ok) throw new Error("this tab needs `pip install '.[loaders]'` and examples/web/build.py run again");
  index.sentences = await response.json();
  element("count").textContent = index.sentences.length;
  for (const id of Object.keys(KINDS)) {
    index.vectors[id] = new Float32Array(await (await fetch(`${FOLDER}${id}/vectors.bin`)).arrayBuffer());
  }
  await loadAll();
}

// One thing at a time; a fault is shown, and the next request starts afresh.
let busy = Promise.resolve();
function run(action) {
  busy = busy.then(action).catch((error) => { element("verdict").textContent = `Error: ${error.message}`; });
  return busy;
}
element("ask").addEventListener("submit", (event) => { event.preventDefault(); run(askAll); });
element("again").addEventListener("click", () => run(loadAll));
element("speed").addEventListener("change", () => run(loadAll));
run(main);

// For the test that drives this page.
window.demo = { models, index, ready: () => busy };
