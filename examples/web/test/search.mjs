// Drives the sentence search in headless Chromium and prints what it shows as JSON.
//
//   node test/search.mjs URL [SCREENSHOT-PREFIX]

import { withPage } from "./browser.mjs";

const [url, screenshots] = process.argv.slice(2);
const KINDS = ["float", "int8", "small"];
await withPage(async (page) => {
  const errors = [], elsewhere = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(url)) elsewhere.push(request.url());
  });
  const settled = async () => {
    await page.waitForFunction(() => document.querySelector("#verdict").textContent, null, { timeout: 500_000 });
    await page.evaluate(() => window.demo.ready());
  };
  const found = () => page.evaluate((kinds) => ({
    verdict: document.querySelector("#verdict").textContent,
    ...Object.fromEntries(kinds.map((id) => {
      const { sent, first, vector, order } = window.demo.models[id] ?? {};
      const shown = [...document.querySelectorAll(`#${id} .ranking li`)].map((item) => item.textContent);
      const texts = Object.fromEntries(["bytes", "first", "each"].map(
        (name) => [name, document.querySelector(`#${id} .${name}`)?.textContent]));
      return [id, { sent, seconds: first / 1000, vector, order, shown, texts }];
    })),
  }), KINDS);

  // From the other tab, as a person comes here.
  await page.goto(url);
  await page.click("text=Sentence search");
  await settled();
  const slow = await found();
  await page.selectOption("#speed", "50");
  await settled();
  const faster = await found();
  await page.fill("#query", "a recipe for lunch");
  await page.keyboard.press("Enter");
  await page.waitForFunction((before) => document.querySelector("#float .ranking li").textContent !== before,
    faster.float.shown[0]);
  await page.evaluate(() => window.demo.ready());
  const asked = await found();
  if (screenshots) {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${screenshots}-${colorScheme}.png`, fullPage: true });
    }
    await page.setViewportSize({ width: 390, height: 800 });
    await page.screenshot({ path: `${screenshots}-narrow.png`, fullPage: true });
  }
  console.log(JSON.stringify({ errors, elsewhere, slow, faster, asked }));
});
