// The daemon's figures and health, fetched at intervals and shared by the shell and the overview.

import { get, isLeft } from "./api.js";

const FAST = 5;
const SLOW = 15;

/** The last answers; `accounts`: those of the provider. `at`: the time of the figures. `problem`: why there are no newer figures. */
export const pulse = { stats: null, health: null, accounts: [], at: null, problem: null, away: false, window: 3600 };

const listeners = new Set();
let timer = null;
let asked = null;
let fast = false;
let running = false;

/** Calls the listener after each round, until the signal ends this. */
export function onPulse(listener, signal) {
  listeners.add(listener);
  signal?.addEventListener("abort", () => listeners.delete(listener), { once: true });
}

export function startPulse() {
  running = true;
  beat();
}

export function stopPulse() {
  running = false;
  clearTimeout(timer);
  asked?.abort();
  Object.assign(pulse, { stats: null, health: null, accounts: [], at: null, problem: null, away: false });
}

/** Sets the pace. The overview fetches often and over its own window; other views need only the badges. */
export function setPace({ quick, window = pulse.window }) {
  const sooner = quick && !fast;
  const other = window !== pulse.window;
  fast = quick;
  pulse.window = window;
  if (other) pulse.stats = null;
  if (running && (other || sooner)) beat();
}

export async function beat() {
  clearTimeout(timer);
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  const [stats, health, provider] = await Promise.allSettled([
    get("/webhooks/stats", { window: pulse.window }, signal),
    get("/webhooks/health", {}, signal),
    get("/webhooks/provider/accounts", {}, signal),
  ]);
  if (signal.aborted || !running) return;
  if (provider.status === "fulfilled") pulse.accounts = provider.value.accounts;
  take(stats, health);
  for (const listener of listeners) listener(pulse);
  timer = setTimeout(next, (fast ? FAST : SLOW) * 1000);
}

function next() {
  // A hidden tab fetches nothing; the visibility listener below wakes it.
  if (!document.hidden) beat();
}

function take(stats, health) {
  if (health.status === "fulfilled") pulse.health = health.value;
  if (stats.status === "fulfilled") Object.assign(pulse, { stats: stats.value, at: Date.now() });
  const failed = [stats, health].filter((result) => result.status === "rejected").map((result) => result.reason);
  const error = failed.find((reason) => !isLeft(reason));
  pulse.problem = error ? error.message : null;
  pulse.away = failed.length === 2 && failed.every((reason) => reason.status === 0);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && running) beat();
});
