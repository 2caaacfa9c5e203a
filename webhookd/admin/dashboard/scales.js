// The places and the labels of an axis's ticks.

const TIME_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const DURATION_STEPS = [10, 15, 30, ...TIME_STEPS];

/** Returns about `wanted` round values from 0 to at least `max`. */
export function valueTicks(max, { wanted = 4, whole = false, seconds = false } = {}) {
  const step = tickStep(max / wanted, whole, seconds);
  const ticks = [];
  for (let i = 0; i === 0 || ticks[i - 1] < max; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function tickStep(rough, whole, seconds) {
  if (seconds && rough > 5)
    return DURATION_STEPS.find((step) => step >= rough) ?? Math.ceil(rough / 604800) * 604800;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  return whole ? Math.max(1, step) : step;
}

/** Returns at most `most` round local times between two epochs in seconds. */
export function timeTicks(from, to, most) {
  const step = TIME_STEPS.find((candidate) => (to - from) / candidate <= most) ?? 604800;
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) ticks.push(at);
  return { ticks, step };
}

export function timeLabel(at, step) {
  const moment = new Date(at * 1000);
  if (step >= 86400) return moment.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  const time = moment.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  const midnight = moment.getHours() === 0 && moment.getMinutes() === 0;
  return midnight && step >= 3600 ? moment.toLocaleDateString(undefined, { month: "short", day: "numeric" }) : time;
}
