// Loads the demo's models over each connection; prints the seconds to each first answer as JSON.
//
//   node test/times.mjs URL REPEATS
//
// The answer is { connection: [[float, compressed] of each load] }.

import { loaded, withPage } from "./browser.mjs";

const [url, repeats] = process.argv.slice(2);
await withPage(async (page) => {
  await page.goto(url);
  await loaded(page);
  const times = {};
  for (const option of await page.locator("#speed option").all()) {
    await page.selectOption("#speed", await option.getAttribute("value"));
    await loaded(page);
    const found = [];
    for (let turn = 0; turn < Number(repeats); turn++) {
      await page.click("#choices button");
      await loaded(page);
      found.push(await page.evaluate(() => ["float", "small"].map((id) => window.demo.models[id].first / 1000)));
    }
    times[await option.textContent()] = found;
  }
  console.log(JSON.stringify(times));
});
