// Loads the float and the compressed model, measures both, and lets both classify the drawing.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { fetched } from "./fetched.js";
import { modelInput, reduced, SIDE } from "./image.js";
import { Pad } from "./pad.js";

const FLOAT = "models/float.onnx";
const BITS = [8, 7, 6, 5, 4, 3, 2, 1];
const INPUT_SHAPE = [1, 3, 64, 64];

ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;
ort.env.wasm.numThreads = 1;

const element = (id) => document.getElementById(id);
const models = {};
let current = new Uint8ClampedArray(SIDE * SIDE);
let examples = [];

function newCard(id, title) {
  const card = element(id);
  card.replaceChildren(element("card").content.cloneNode(true));
  card.querySelector("h2").textContent = title;
  const bars = card.querySelector(".bars");
  for (let digit = 0; digit < 10; digit++) {
    const item = document.createElement("li");
    item.append(document.createElement("i"), String(digit));
    bars.append(item);
  }
  return card;
}

async function load(id, url, title, signal) {
  const card = newCard(id, title);
  const bar = card.querySelector("progress");
  const start = performance.now();
  const speed = Number(element("speed").value);
  const { bytes, sent } = await fetched(url, speed, (share) => { bar.value = share; }, signal);
  const session = await ort.InferenceSession.create(bytes);
  models[id] = { session, sent, title };
  await ask(id, modelInput(current));
  models[id].first = performance.now() - start;
  bar.hidden = true;
  card.querySelector(".bytes").textContent = `${(sent / 1e6).toFixed(2)} MB`;
  card.querySelector(".first").textContent = `${(models[id].first / 1000).toFixed(2)} s`;
}

async function ask(id, input) {
  const model = models[id];
  const start = performance.now();
  const { logits } = await model.session.run({ input: new ort.Tensor("float32", input, INPUT_SHAPE) });
  const each = performance.now() - start;
  Object.assign(model, { logits: Array.from(logits.data), each });
  show(id);
  return model.logits;
}

function probabilities(logits) {
  const highest = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - highest));
  const sum = weights.reduce((left, right) => left + right);
  return weights.map((weight) => weight / sum);
}

function show(id) {
  const card = element(id);
  const shares = probabilities(models[id].logits);
  const best = shares.indexOf(Math.max(...shares));
  const drawn = current.some(Boolean);
  card.querySelector(".digit").textContent = drawn ? best : "–";
  card.querySelector(".sure").textContent = drawn ? `${(100 * shares[best]).toFixed(1)} % sure` : "nothing drawn yet";
  card.querySelector(".each").textContent = `${models[id].each.toFixed(1)} ms`;
  card.querySelectorAll(".bars li").forEach((item, digit) => {
    item.classList.toggle("best", drawn && digit === best);
    item.firstChild.style.height = drawn ? `${100 * shares[digit]}%` : 0;
    item.title = `${digit}: ${(100 * shares[digit]).toFixed(1)} %`;
  });
}

function judge() {
  const { float, small } = models;
  if (!float?.first || !small?.first) return;
  const smaller = (float.sent / small.sent).toFixed(1);
  const faster = float.first / small.first;
  const sooner = faster >= 1 ? `${faster.toFixed(1)} times sooner` : `${(1 / faster).toFixed(1)} times later`;
  const answers = [float, small].map(({ logits }) => logits.indexOf(Math.max(...logits)));
  const drawn = current.some(Boolean);
  const answer = !drawn ? "" : answers[0] === answers[1]
    ? ` Both read ${answers[0]}.` : ` They disagree: ${answers[0]} and ${answers[1]}.`;
  element("verdict").textContent =
    `Compressed, the model is ${smaller} times smaller and answers ${sooner}.${answer}`;
}

let asking = Promise.resolve();
function classify(pixels) {
  current = pixels;
  element("seen").getContext("2d").putImageData(new ImageData(
    Uint8ClampedArray.from({ length: 4 * pixels.length }, (_, at) => at % 4 === 3 ? 255 : pixels[at >> 2]), SIDE), 0, 0);
  // A session runs one input at a time.
  asking = asking.then(async () => {
    const input = modelInput(pixels);
    const answers = {};
    for (const id of ["float", "small"]) if (models[id]) answers[id] = await ask(id, input);
    judge();
    return answers;
  });
  return asking;
}

let loading = new AbortController();
let ready = Promise.resolve();

// Loads both models with the chosen settings; cancels a load in progress first.
function loadBoth() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  ready = ready.catch(() => {}).then(() => loadInTurn(signal)).catch((error) => {
    if (signal.aborted) return;
    element("verdict").textContent = `Error: ${error.message}`;
    throw error;
  });
  return ready;
}

async function loadInTurn(signal) {
  signal.throwIfAborted();
  await asking;
  for (const id of Object.keys(models)) {
    await models[id].session.release();
    delete models[id];
  }
  element("verdict").textContent = "";
  const bits = element("bits").value;
  const title = `Compressed, ${bits} bits`;
  newCard("small", title);
  await load("float", FLOAT, "Float, 32 bits", signal);
  await load("small", `models/${bits}.onnx`, title, signal);
  judge();
}

async function main() {
  for (const bits of BITS) element("bits").add(new Option(bits, bits, false, bits === 4));
  const canvas = element("pad");
  const pad = new Pad(canvas, () => classify(reduced(pad.pixels(), canvas.width)));
  element("clear").addEventListener("click", () => pad.clear());
  element("example").addEventListener("click", () => {
    const example = examples[Math.floor(Math.random() * examples.length)];
    pad.showPixels(example, SIDE);
    classify(Uint8ClampedArray.from(example));
  });
  examples = await (await fetch("models/examples.json")).json();
  // Loading an empty model starts the runtime; its error does not matter.
  await ort.InferenceSession.create(new Uint8Array(1)).catch(() => {});
  const { web, common } = ort.env.versions;
  element("runtime").textContent = `ONNX Runtime Web ${web ?? common}`;
  element("choices").addEventListener("submit", (event) => {
    event.preventDefault();
    loadBoth();
  });
  element("choices").addEventListener("change", loadBoth);
  await loadBoth();
}

main().catch((error) => {
  element("verdict").textContent = `Error: ${error.message}`;
  throw error;
});

// For the test that drives this page.
window.demo = { classify, models, modelInput, ready: () => ready };
