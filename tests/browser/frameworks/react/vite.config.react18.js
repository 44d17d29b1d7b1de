import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const alias = [
  { find: /^react(?=\/|$)/, replacement: "react18" },
  { find: /^react-dom(?=\/|$)/, replacement: "react-dom18" },
];

export default defineConfig({ plugins: [react()], resolve: { alias } });
