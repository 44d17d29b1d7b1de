// The plugin for Vite 8 compiles for Svelte 5 only, so the compiler of Svelte 4 is called here.
import { compile } from "svelte4/compiler";
import { defineConfig } from "vite";

const svelte4 = {
  name: "svelte4",
  transform(code, id) {
    return id.endsWith(".svelte") ? compile(code, { filename: id }).js : undefined;
  },
};

export default defineConfig({
  plugins: [svelte4],
  resolve: { alias: [{ find: /^svelte(?=\/|$)/, replacement: "svelte4" }], conditions: ["svelte", "browser"] },
});
