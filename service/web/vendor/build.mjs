// Bundles the browser libraries into ../static/vendor, with their licences. Run by `make vendor`.
import { build } from "esbuild";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";

const OUT = "../static/vendor";
const { devDependencies } = JSON.parse(readFileSync("package.json", "utf8"));

await build({
  entryPoints: ["ui.mjs", "markdown.mjs", "plot.mjs"],
  outdir: OUT,
  outExtension: { ".js": ".js" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
});
copyFileSync("node_modules/uplot/dist/uPlot.min.css", `${OUT}/plot.css`);

const bundled = Object.entries(devDependencies).filter(([name]) => name !== "esbuild");
const texts = bundled.map(([name, version]) => {
  const licence = readFileSync(`node_modules/${name}/LICENSE`, "utf8");
  return `${name} ${version}\n\n${licence.trim()}\n`;
});
writeFileSync(`${OUT}/LICENSES.txt`, texts.join(`\n${"-".repeat(78)}\n\n`));
