// Drives the page in headless Chromium and prints what it shows as JSON.
//
//   node test/page.mjs URL IMAGES.json [SCREENSHOT-PREFIX]
//
// IMAGES holds lists of 64 pixels.

import { readFile } from "node:fs/promises";
import { loaded, withPage } from "./browser.mjs";

const [url, imagesFile, screenshots] = process.argv.slice(2);
const images = JSON.parse(await readFile(imagesFile, "utf8"));
await withPage(async (page) => {
  const errors = [], elsewhere = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) elsewhere.push(request.url());
  });
  await page.goto(url);
  await loaded(page);
  await page.selectOption("#speed", "0");
  await loaded(page);

  const logits = {};
  for (const bits of await page.locator("#bits option").allTextContents()) {
    await page.selectOption("#bits", bits);
    await loaded(page);
    if (errors.length) throw new Error(errors.join("\n"));
    logits[bits] = await page.evaluate(async (list) => {
      const answers = [];
      for (const image of list) answers.push(await window.demo.classify(Uint8ClampedArray.from(image)));
      return answers;
    }, images);
  }
  const inputs = await page.evaluate(
    (list) => list.map((image) => Array.from(window.demo.modelInput(Uint8ClampedArray.from(image)))), images);

  await page.selectOption("#bits", "4");
  await loaded(page);
  const cards = async () => Object.fromEntries(await Promise.all(["float", "small"].map(async (id) => [id, {
    digit: await page.locator(`#${id} .digit`).textContent(),
    bytes: await page.locator(`#${id} .bytes`).textContent(),
    first: await page.locator(`#${id} .first`).textContent(),
  }])));
  const sent = await page.evaluate(() =>
    Object.fromEntries(Object.entries(window.demo.models).map(([id, model]) => [id, model.sent])));

  // A four with the mouse, then a one with the keyboard alone.
  const box = await page.locator("#pad").boundingBox();
  const at = (x, y) => [box.x + x * box.width, box.y + y * box.height];
  await page.click("#clear");
  for (const [start, ...rest] of [[[0.55, 0.1], [0.25, 0.6], [0.75, 0.6]], [[0.6, 0.35], [0.6, 0.9]]]) {
    await page.mouse.move(...at(...start));
    await page.mouse.down();
    for (const point of rest) await page.mouse.move(...at(...point), { steps: 12 });
    await page.mouse.up();
  }
  await page.waitForFunction(() => document.querySelector("#small .digit").textContent !== "–");
  await page.waitForTimeout(500);
  const mouse = { ...(await cards()), verdict: await page.locator("#verdict").textContent() };
  if (screenshots) {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(200);
      await page.screenshot({ path: `${screenshots}-${colorScheme}.png`, fullPage: true });
    }
    await page.setViewportSize({ width: 390, height: 800 });
    await page.screenshot({ path: `${screenshots}-narrow.png`, fullPage: true });
    await page.setViewportSize({ width: 1080, height: 760 });
  }

  await page.locator("#pad").focus();
  await page.keyboard.press("Delete");
  for (let step = 0; step < 12; step++) await page.keyboard.press("ArrowUp");
  await page.keyboard.press(" ");
  for (let step = 0; step < 24; step++) await page.keyboard.press("ArrowDown");
  await page.keyboard.press(" ");
  await page.waitForTimeout(500);
  const keyboard = await cards();

  console.log(JSON.stringify({ errors, elsewhere, logits, inputs, sent, mouse, keyboard }));
});
