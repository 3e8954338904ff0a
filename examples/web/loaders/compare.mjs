// Compares the three repositories of examples/loaders/minilm.py: quality, time to load and to run.

const DTYPES = { float: "fp32", int8: "q8", small: "q4" };
const REPEATS = 3;

// `load` takes a repository and a dtype, and returns a function from sentences to embeddings.
export async function compared(load, sentences) {
  const rows = {}, loads = {}, runs = {}, vectors = {};
  const encoders = {};
  for (let turn = 0; turn <= REPEATS; turn++) {
    for (const [kind, dtype] of Object.entries(DTYPES)) {
      const start = performance.now();
      encoders[kind] = await load(kind, dtype);
      const loaded = performance.now();
      await encoders[kind](sentences.slice(0, 16));
      if (!turn) continue; // the first turn warms up
      (loads[kind] ??= []).push(loaded - start);
      (runs[kind] ??= []).push(performance.now() - loaded);
    }
  }
  for (const kind of Object.keys(DTYPES)) vectors[kind] = await encoders[kind](sentences);
  const nearest = Object.fromEntries(Object.entries(vectors).map(([kind, found]) => [kind, nearestOf(found)]));
  for (const kind of Object.keys(DTYPES)) {
    rows[kind] = {
      cosine: mean(vectors[kind].map((vector, at) => dot(vector, vectors.float[at]))),
      "same nearest": mean(nearest[kind].map((other, at) => Number(other === nearest.float[at]))),
      load: median(loads[kind]) / median(loads.float),
      run: median(runs[kind]) / median(runs.float),
    };
  }
  return rows;
}

export const dot = (left, right) => left.reduce((sum, value, at) => sum + value * right[at], 0);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const median = (values) => values.toSorted((left, right) => left - right)[Math.floor(values.length / 2)];

function nearestOf(vectors) {
  return vectors.map((vector, own) => {
    const likeness = vectors.map((other, at) => (at === own ? -2 : dot(vector, other)));
    return likeness.indexOf(Math.max(...likeness));
  });
}
