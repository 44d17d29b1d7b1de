/** The npm package `jose`: prints a token of alice for each algorithm. Its argument has the keys and their algorithms. */

import { pathToFileURL } from "node:url";

import { report, require } from "./common.mjs";

const { SignJWT, importPKCS8 } = await import(pathToFileURL(require.resolve("jose")));
const { secret, keys, algorithms } = JSON.parse(process.argv[2]);
const tokens = {};
for (const [name, ofKey] of Object.entries(algorithms)) {
  for (const alg of ofKey) {
    const key = name === "secret" ? new TextEncoder().encode(secret) : await importPKCS8(keys[name], alg);
    const token = new SignJWT().setProtectedHeader({ alg }).setSubject("alice").setIssuedAt().setExpirationTime("10m");
    tokens[alg] = await token.sign(key);
  }
}
report(tokens);
