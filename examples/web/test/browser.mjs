// Headless Chromium with one page open. CHROMIUM names the browser, by default /usr/bin/chromium.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update",
];

// Calls `use` with a page, and leaves nothing behind whatever happens.
export async function withPage(use) {
  const profile = await mkdtemp(join(tmpdir(), "qqonnx-chromium-"));
  try {
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: FLAGS,
      viewport: { width: 1080, height: 760 },
      timeout: 120_000,
    });
    try {
      const page = await context.newPage();
      page.setDefaultTimeout(120_000);
      await use(page);
    } finally {
      await context.close();
    }
  } finally {
    await rm(profile, { recursive: true, force: true });
  }
}

// Waits until the demo page has loaded both models, or shows an error.
export async function loaded(page) {
  await page.waitForFunction(() => window.demo?.models.small?.first || document.querySelector("#verdict").textContent);
  await page.evaluate(() => window.demo.ready());
}
