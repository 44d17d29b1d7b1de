/** The styles of embed.js. Light or dark, by the `color-scheme` of the page. */

const hues = [20, 48, 75, 105, 135, 160, 190, 220, 250, 280, 310, 345].map((hue, index) => `.hue-${index} { --hue: ${hue}; }`);

export const style = `
${hues.join("\n")}

:host {
  display: block;
  --background: light-dark(#fff, #111516);
  --inset: light-dark(#f1f3f3, #1b2123);
  --text: light-dark(#14181a, #eaeef0);
  --text-soft: light-dark(#58626a, #96a1a8);
  --border: light-dark(#e2e6e8, #2a3235);
  --live: light-dark(#08734a, #3ddc97);
  --live-soft: light-dark(#d9f4e7, #0e2a1f);
  --warn: light-dark(#9a5b00, #f2b45a);
  --error: light-dark(#b3261e, #ff8a80);
  max-width: 24rem;
}

*, *::before, *::after { box-sizing: border-box; }

.box {
  overflow: hidden;
  border: 1px solid var(--border);
  border-radius: 12px;
  background: var(--background);
  color: var(--text);
  font: 400 15px/1.45 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  text-align: start;
}

p, ol { margin: 0; padding: 0; list-style: none; }
:focus-visible { outline: 2px solid light-dark(#0b6bcb, #6cb6ff); outline-offset: -2px; }

header {
  display: flex;
  align-items: center;
  gap: 0.35em;
  padding: 12px 16px;
  border-bottom: 1px solid var(--border);
  font-weight: 600;
  font-variant-numeric: tabular-nums;
}

.dot { width: 8px; height: 8px; margin-right: 4px; border-radius: 50%; background: var(--border); }
[data-phase="online"] .dot { background: var(--live); box-shadow: 0 0 0 3px var(--live-soft); }
[data-phase="waiting"] .dot, [data-phase="connecting"] .dot { background: var(--warn); }
[data-phase="refused"] .dot { background: var(--error); }
.room { overflow: hidden; margin-left: auto; color: var(--text-soft); font-weight: 400; text-overflow: ellipsis; white-space: nowrap; }
.state { color: var(--warn); font-size: 13px; font-weight: 400; }
.state:empty { display: none; }

.roster { max-height: 220px; padding: 6px 16px; overflow-y: auto; }
.row { display: flex; align-items: center; gap: 10px; min-width: 0; height: 38px; }
.name { min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.tag { padding: 0 7px; border-radius: 99px; background: var(--live-soft); color: var(--live); font-size: 12px; font-weight: 600; }
.more { padding: 6px 0; color: var(--text-soft); font-size: 13px; }
.box:not([data-phase="online"]) .roster { color: var(--text-soft); filter: grayscale(1); }
.box:not([data-phase="online"]) .roster .avatar { opacity: 0.5; }

.avatar {
  flex: none;
  display: grid;
  place-items: center;
  width: 26px;
  height: 26px;
  border-radius: 50%;
  overflow: hidden;
  background: light-dark(oklch(0.93 0.045 var(--hue)), oklch(0.3 0.055 var(--hue)));
  color: light-dark(oklch(0.43 0.11 var(--hue)), oklch(0.86 0.09 var(--hue)));
  font-size: 10.5px;
  font-weight: 650;
  line-height: 1;
}

.log { height: 220px; padding: 8px 16px 12px; border-top: 1px solid var(--border); overflow-y: auto; overscroll-behavior: contain; }
.log:empty::before { content: "No messages yet."; color: var(--text-soft); font-size: 14px; }
.message { display: grid; grid-template-columns: 26px minmax(0, 1fr); column-gap: 10px; margin-top: 10px; }
.message .avatar { grid-row: 1 / 3; }
.message-head { display: flex; align-items: baseline; gap: 8px; min-width: 0; font-size: 13px; }
.message-head .name { font-weight: 600; }
.message-head time { flex: none; color: var(--text-soft); font-size: 12px; }
.message-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.mine .message-head .name { color: var(--live); }

.input-line { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 8px; padding: 10px 12px; border-top: 1px solid var(--border); }
.input-line.single { grid-template-columns: auto; justify-content: start; }

input, button {
  min-height: 40px;
  padding: 6px 12px;
  border: 1px solid var(--border);
  border-radius: 8px;
  background: var(--inset);
  color: inherit;
  font: inherit;
}

input { font-size: 16px; }
input::placeholder { color: var(--text-soft); opacity: 1; }
button { border-color: var(--text); background: var(--text); color: var(--background); font-weight: 550; cursor: pointer; }
.problem { grid-column: 1 / -1; color: var(--error); font-size: 13px; }
.problem:empty { display: none; }
`;
