// Opens the page in headless Chromium, draws a digit with the mouse, takes a screenshot and keeps
// what the network computed. Usage: node check.mjs URL FOLDER (CHROMIUM names another browser)
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 860, height: 860 } });
const errors = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
await page.goto(url);
await page.waitForFunction(() => window.snn?.history.length > 2, null, { timeout: 60000 });
await page.click("#clear");
const box = await page.locator("#field").boundingBox();
const at = ([x, y]) => [box.x + ((x + 0.5) / 16) * box.width, box.y + ((y + 0.5) / 16) * box.height];
const seven = [[4, 3], [10, 3], [10, 5], [8, 9], [7, 13]];
await page.mouse.move(...at(seven[0]));
await page.mouse.down();
for (const point of seven.slice(1)) await page.mouse.move(...at(point), { steps: 12 });
await page.mouse.up();
const drawn = await page.evaluate(() => window.snn.history.length);
await page.waitForFunction((n) => window.snn.history.length > n + 20, drawn, { timeout: 60000 });
await page.screenshot({ path: join(folder, "page.png") });
writeFileSync(join(folder, "history.json"), JSON.stringify(await page.evaluate(() => window.snn.history)));
await browser.close();
if (errors.length) console.error(errors.join("\n"));
process.exit(errors.length ? 1 : 0);
