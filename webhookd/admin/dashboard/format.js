// Numbers, times and durations as people read them. The functions take figures, and return short text.

const PREFIX = "net.authorize.";
const absolute = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayTime = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
});

export function shortType(type) {
  return type?.startsWith(PREFIX) ? type.slice(PREFIX.length) : (type ?? "");
}

/** Returns the words for a name, or the name itself. Own names only: "constructor" is a property of every object. */
export function named(table, name) {
  return Object.hasOwn(table, name) ? table[name] : name;
}

/** Returns a text of the API, which begins with a small letter, as a whole sentence. */
export function sentence(text) {
  if (!text) return text;
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Returns 12,345, or 100,000+ if counting stopped there. */
export function count(value, cap) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString() + (cap && value >= cap ? "+" : "");
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Returns an amount with two decimals, or with more if it has more. Text is never read as a number: it stays exact. */
export function money(amount) {
  if (!/^-?\d+(\.\d+)?$/.test(amount ?? "")) return amount;
  const [whole, fraction = ""] = amount.split(".");
  return `${whole}.${fraction.replace(/0+$/, "").padEnd(2, "0")}`;
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.01) return "< 0.01";
  return value.toLocaleString(undefined, { maximumFractionDigits: value < 1 ? 2 : value < 100 ? 1 : 0 });
}

/** Returns a duration: 4 ms, 0.32 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0) return "0 s";
  if (seconds < 0.1 && seconds > 0) return `${trim(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${trim(seconds, seconds < 1 ? 2 : seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return two(whole, 60, "min", 1, "s");
  if (whole < 86400) return two(whole, 3600, "h", 60, "min");
  return two(whole, 86400, "d", 3600, "h");
}

/** Returns a duration for an axis, where there is little room: 45 s, 1.5 min, 2 h. */
export function axisDuration(seconds) {
  const [size, name] = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ].find(([least]) => seconds >= least) ?? [0, ""];
  return size ? `${trim(seconds / size, 1)} ${name}` : duration(seconds);
}

function two(whole, big, bigName, small, smallName) {
  const rest = Math.floor((whole % big) / small);
  return `${Math.floor(whole / big)} ${bigName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

function trim(value, digits) {
  return String(Number(value.toFixed(digits)));
}

/** Returns a duration in one unit only: 3 min, 2 h, 5 d. For places where the size matters, not the figure. */
export function roughly(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** Returns "3 min ago" or "in 40 s". */
export function relative(iso) {
  const age = (Date.now() - Date.parse(iso)) / 1000;
  if (Math.abs(age) < 1) return "now";
  return age > 0 ? `${roughly(age)} ago` : `in ${roughly(-age)}`;
}

export function localTime(iso) {
  return absolute.format(new Date(iso));
}

export function clock(moment) {
  return clockTime.format(new Date(moment));
}

export function day(moment) {
  return dayTime.format(new Date(moment));
}

/** Returns the tooltip of a time: the browser's zone first, then UTC to the millisecond. */
export function bothZones(iso) {
  const utc = new Date(iso).toISOString().replace("T", " ").replace("Z", "");
  return `${localTime(iso)} here\n${utc} UTC`;
}

export function secondsBetween(from, to) {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

export function bytes(size) {
  if (size < 1024) return `${size} B`;
  return size < 1024 * 1024 ? `${trim(size / 1024, 1)} KiB` : `${trim(size / 1024 / 1024, 1)} MiB`;
}

/** Returns a datetime-local value, in the browser's zone, of an ISO time. `fromInput` returns ISO in UTC. */
export function toInput(iso) {
  const moment = new Date(iso ?? "");
  if (Number.isNaN(moment.getTime())) return "";
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

export function fromInput(value) {
  const moment = new Date(value);
  return value && !Number.isNaN(moment.getTime()) ? moment.toISOString() : "";
}
