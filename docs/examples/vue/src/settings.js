export const url = import.meta.env.VITE_ROLLCALL_URL ?? "ws://localhost:8000";

/** `?user=NAME`, or a guest who stays the same when the page is reloaded. */
export function userName() {
  const guest = (sessionStorage.guest ??= `guest ${Math.random().toString(36).slice(2, 8)}`);
  return new URLSearchParams(location.search).get("user") ?? guest;
}
