// Reads a Terraform module with HashiCorp's own parser, compiled to WebAssembly; writes the module as JSON.
// Arguments: the folder with node_modules, then the files. An expression stays a text, such as "${var.name}".
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";

const [modules, ...files] = process.argv.slice(2);
const { parse } = createRequire(`${modules}/`)("@cdktf/hcl2json");
const found = {};
for (const file of files) found[basename(file)] = await parse(file, readFileSync(file, "utf-8"));
process.stdout.write(JSON.stringify(found));
