// Figures over time as inline SVG: lines, dashed lines, and estimates with their intervals. One scale each.

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 480;
const HEIGHT = 200;
const LEFT = 46;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 24;
const DAY_S = 86_400;
const TICKS_S = [60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, DAY_S, 2 * DAY_S, 7 * DAY_S, 30 * DAY_S, 91 * DAY_S, 365 * DAY_S];

// lines: { points: [[at, value]], dashed, name }; estimates: { at, low, value, high, text }. since, until: Unix
// seconds. low, high: ends of the scale where they are known. label: what is read aloud.
export function figure({ lines = [], estimates = [], since, until, low, high, label }) {
  const values = [...lines.flatMap(({ points }) => points.map(([, value]) => value)), ...estimates.flatMap((each) => [each.low, each.high])];
  const scale = scaleOf(values, low, high);
  const x = (at) => LEFT + ((at - since) / Math.max(until - since, 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - scale.low) / (scale.high - scale.low)) * (HEIGHT - TOP - BOTTOM);
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const value of scale.ticks) {
    svg.append(node("path", { class: "grid", d: `M${LEFT} ${y(value)}H${WIDTH - RIGHT}` }), words(short(value), LEFT - 6, y(value) + 4, "end"));
  }
  for (const { at, text } of timeTicks(since, until)) svg.append(words(text, x(at), HEIGHT - 6, "middle"));
  for (const line of lines) svg.append(lineNode(line, x, y));
  for (const each of estimates) svg.append(estimateNode(each, x, y));
  return svg;
}

const LANE = 26;

// Who served when, in two lanes: live, and below it what was on trial or kept for comparison. spans: as GET
// /v1/learning has them. width: as wide as the figure will be, for its texts are as large as the page's.
export function timeline({ spans, until, width, label }) {
  const since = spans[0].since;
  const bottom = TOP + 2 * LANE + 26;
  const x = (at) => LEFT + ((at - since) / Math.max(until - since, 1)) * (width - LEFT - RIGHT);
  const svg = node("svg", { viewBox: `0 0 ${width} ${bottom}`, role: "img", "aria-label": label });
  for (const [lane, name] of ["Live", "Trial"].entries()) svg.append(words(name, LEFT - 8, laneAt(lane) + 16, "end"));
  for (const [lane, boxes] of [liveBoxes(spans), trialBoxes(spans)].entries()) {
    for (const box of boxes) svg.append(boxNode(box, lane, x(box.since), x(box.until ?? until)));
  }
  for (const span of spans) if (ENDS[span.ended]) svg.append(endNode(span, x(span.until)));
  for (const { at, text } of timeTicks(since, until)) svg.append(words(text, x(at), bottom - 6, "middle"));
  return svg;
}

// How a trial can end that is marked: true for the better.
const ENDS = { promoted: { good: true, text: "promoted" }, harmful: { text: "rolled back by votes" }, guardrail: { text: "rolled back by a guardrail" }, rolled_back: { text: "rolled back by an operator" } };

function liveBoxes(spans) {
  const boxes = [];
  for (const { since, until, live } of spans) {
    if (boxes.at(-1)?.version === live) boxes.at(-1).until = until;
    else boxes.push({ since, until, version: live, kind: "live", text: `${live} is live` });
  }
  return boxes;
}

function trialBoxes(spans) {
  return spans
    .filter(({ tried, against }) => tried || against)
    .map(({ since, until, tried, against, weight }) => {
      const share = `${short(100 * weight)}% of users`;
      if (tried) return { since, until, version: tried, kind: "tried", text: `${tried} is on trial with ${share}` };
      return { since, until, version: against, kind: "kept", text: `${share} keep ${against}` };
    });
}

function laneAt(lane) {
  return TOP + lane * (LANE + 4);
}

function boxNode({ version, kind, text }, lane, from, to) {
  const group = node("g", { class: `box ${kind}` });
  const title = node("title");
  title.textContent = text;
  const wide = Math.max(to - from, 1);
  group.append(title, node("rect", { x: from, y: laneAt(lane), width: wide, height: LANE, rx: Math.min(4, wide / 2) }));
  const named = version.replace(/-[0-9a-f]{8}$/, "");
  if (wide > 8 * named.length) group.append(words(named, from + wide / 2, laneAt(lane) + 17, "middle"));
  return group;
}

function endNode({ ended, tried, live }, at) {
  const { good, text } = ENDS[ended];
  const y = laneAt(1);
  const group = node("g", { class: good ? "end good" : "end" });
  const title = node("title");
  title.textContent = `${tried ?? live}: ${text}`;
  group.append(title, node("path", { d: good ? `M${at - 5} ${y + 1}h10l-5 -8z` : `M${at - 5} ${y - 7}h10l-5 8z` }));
  return group;
}

// A single point is a dot: a line needs two.
function lineNode({ points, dashed }, x, y) {
  if (points.length === 1) return node("circle", { class: "dot", cx: x(points[0][0]), cy: y(points[0][1]), r: 3 });
  const path = points.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  return node("path", { class: dashed ? "line dashed" : "line", d: points.length ? `M${path}` : "" });
}

function estimateNode({ at, low, value, high, text }, x, y) {
  const group = node("g", { class: "estimate" });
  const title = node("title");
  title.textContent = text;
  group.append(title, node("path", { d: `M${x(at)} ${y(low)}V${y(high)}` }), node("circle", { cx: x(at), cy: y(value), r: 4 }));
  return group;
}

// Ends and ticks of a scale: the ends are round unless they are given.
export function scaleOf(values, low, high) {
  let bottom = low ?? Math.min(...values);
  let top = high ?? Math.max(...values);
  if (!Number.isFinite(bottom)) bottom = 0;
  if (!Number.isFinite(top) || top <= bottom) top = bottom + (Math.abs(bottom) || 1);
  const step = stepOf((top - bottom) / 4);
  const first = Math.floor(bottom / step + 1e-9);
  const last = Math.ceil(top / step - 1e-9);
  const ticks = [];
  for (let number = first; number <= last; number += 1) ticks.push(number * step);
  return { low: low ?? first * step, high: high ?? last * step, ticks: ticks.filter((tick) => (low === undefined || tick >= low) && (high === undefined || tick <= high)) };
}

// The round number, 1, 2 or 5 times a power of ten, that is at least so much.
function stepOf(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= least * (1 - 1e-9));
}

// Round local times, four or five of them.
function timeTicks(since, until) {
  const step = TICKS_S.find((each) => (until - since) / each <= 4.5) ?? TICKS_S.at(-1);
  const ahead = -new Date(until * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let at = Math.ceil((since + ahead) / step) * step - ahead; at <= until; at += step) ticks.push({ at, text: timeText(at, step) });
  const fits = ({ at }) => (at - since) / Math.max(until - since, 1) < 0.97; // its text would be cut off
  return ticks.filter(fits);
}

function timeText(at, step) {
  const date = new Date(at * 1000);
  if (step > 30 * DAY_S) return date.toLocaleDateString([], { month: "short", year: "numeric" });
  return step < DAY_S ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : date.toLocaleDateString([], { day: "numeric", month: "short" });
}

function short(value) {
  return Number(value.toPrecision(6)).toLocaleString("en", { maximumSignificantDigits: 4 });
}

function words(text, x, y, anchor) {
  const made = node("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function node(tag, attributes = {}) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
