// Drives a report in headless Chromium, by keyboard, and prints what it shows as JSON.
//
//   node tests/report/report_page.mjs REPORT.html
//
// Uses the playwright-core of examples/web. CHROMIUM names the browser, by default
// /usr/bin/chromium. SCREENSHOTS is a prefix for pictures: light, dark, narrow. AXE is the path of
// axe-core's axe.min.js, whose findings are printed then too.

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../../examples/web/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const address = pathToFileURL(resolve(process.argv[2])).href;
const { SCREENSHOTS: screenshots, AXE: axe } = process.env;
const profile = await mkdtemp(join(tmpdir(), "qqonnx-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
  ],
  viewport: { width: 1200, height: 900 },
  timeout: 120_000,
});
try {
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const errors = [], requests = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => errors.push(message.text()));
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(address);

  const column = (index) => page.$$eval(
    "#table tbody tr:not([hidden])", (rows, at) => rows.map((row) => row.cells[at].textContent.trim()), index);
  const sorts = () => page.$$eval("#table thead th", (heads) => heads.map((head) => head.ariaSort));
  const heads = await page.$$eval("#table thead th", (observed) => observed.map((head) => head.textContent.trim()));
  const count = () => page.textContent("#count");
  const observed = { heads, sorted: {}, filtered: {} };

  // From the first heading on, Tab and Enter alone.
  await page.focus("#table thead th button");
  for (const [index, head] of heads.entries()) {
    await page.keyboard.press("Enter");
    const first = await column(index), direction = (await sorts())[index];
    await page.keyboard.press("Space");
    observed.sorted[head] = {
      directions: [direction, (await sorts())[index]], first, second: await column(index), said: await count(),
      others: (await sorts()).filter((value) => value !== "none").length,
      ring: await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle),
    };
    await page.keyboard.press("Tab");
  }

  // A choice in a filter by its first letter, as a keyboard user does.
  await page.focus("select[name=method]");
  await page.keyboard.type("km");
  observed.filtered.method = { runs: await column(0), said: await count() };
  await page.focus("input[name=frontier]");
  await page.keyboard.press("Space");
  observed.filtered.frontier = { runs: await column(0), said: await count() };

  observed.open = await page.$$eval("details.run[open]", (runs) => runs.map((run) => run.id));

  // A mark of the frontier tells and leads to what is in the file.
  await page.focus("svg a");
  observed.tip = await page.textContent("#tip");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("details.run:target")?.open);
  observed.opened = {
    at: await page.evaluate(() => location.hash),
    focus: await page.evaluate(() => document.activeElement.textContent.trim().replace(/\s+/g, " ")),
  };
  const layers = page.locator("details.run:target svg[id^=layers-]");
  await layers.scrollIntoViewIfNeeded();
  const box = await layers.boundingBox();
  await page.mouse.move(box.x + box.width * 0.6, box.y + box.height * 0.3);
  observed.layer = await page.textContent("#tip");

  const colors = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  observed.colors = {};
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    observed.colors[colorScheme] = await colors();
    await page.focus(".theme input:checked");
    await page.keyboard.press("ArrowRight");
    observed.colors[`${colorScheme}, switched to light`] = await colors();
    await page.keyboard.press("ArrowRight");
    observed.colors[`${colorScheme}, switched to dark`] = await colors();
    await page.keyboard.press("ArrowRight");
    if (axe) {
      await page.evaluate(await readFile(axe, "utf8"));
      observed[`axe ${colorScheme}`] = await page.evaluate(async () => (await window.axe.run()).violations.map(
        ({ id, nodes }) => `${id}: ${nodes.slice(0, 4).map((node) => node.html.slice(0, 160)).join(" | ")} (${nodes.length})`));
    }
  }
  await page.emulateMedia({ colorScheme: "dark" });
  await page.check(".theme input[value=light]");
  await page.reload();
  observed.colors.remembered = await colors();
  await page.check(".theme input[value='']");

  if (screenshots) {
    await page.mouse.move(0, 0);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${screenshots}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 360, height: 740 });
  observed.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (screenshots) await page.screenshot({ path: `${screenshots}-narrow.png`, fullPage: true });
  observed.errors = errors;
  observed.requests = requests.filter((url) => url.split("#")[0] !== address && !url.startsWith("data:"));

  // Without scripts the page still tells all.
  const plain = await context.browser()?.newContext({ javaScriptEnabled: false });
  if (plain) {
    const still = await plain.newPage();
    await still.goto(address);
    observed.plain = await still.locator("#table tbody tr").count();
    await plain.close();
  }
  console.log(JSON.stringify(observed));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
