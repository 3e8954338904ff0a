// Fetches a file at the speed of a slower connection (Mbit/s; 0 for as it is).
//
// Returns the bytes, and how many of them were sent.
export async function fetched(url, speed, progress = () => {}, signal) {
  const start = performance.now();
  const response = await fetch(url, { cache: "no-store", signal });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    for (let at = 0; at < value.length; at += 16384) {
      const part = value.subarray(at, at + 16384);
      parts.push(part);
      size += part.length;
      const due = speed ? (size * 8) / (speed * 1000) : 0;
      const early = due - (performance.now() - start);
      if (early > 4) await new Promise((resolve) => setTimeout(resolve, early));
      signal?.throwIfAborted();
      progress(total ? size / total : 0);
    }
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  const entries = performance.getEntriesByName(new URL(url, location).href);
  const sent = entries.at(-1)?.encodedBodySize || size;
  return { bytes, sent };
}
