// How learning goes: a sentence, what a person should do, and the learner's steps over time.

import { announce, byId, element } from "./dom.js";
import { figure, timeline } from "./figures.js";

const MINUTE_MS = 60_000;

let drawn = "";
let stages = []; // as they were told last

// told: the answer of GET /v1/learning.
export function showLearning(told) {
  stages = told.stages;
  showStages();
  const text = JSON.stringify(told);
  if (text === drawn) return;
  drawn = text;
  const place = byId("learns");
  place.textContent = told.sentence;
  place.hidden = false;
  byId("lately").textContent = told.lately;
  byId("lately").hidden = false;
  byId("lag").textContent = lag(told.lag);
  byId("lag").hidden = false;
  showTasks(told.to_do);
  showFigures(told);
}

// How far the learner is behind votes.
function lag({ votes, since, updated }) {
  const newest = updated === null ? "It has not learned from any yet." : `Its newest update was ${momentOf(updated)}.`;
  if (!votes) return updated === null ? "" : `The learner has taken in all votes. ${newest}`;
  return `${votes.toLocaleString("en")} ${votes === 1 ? "vote waits" : "votes wait"} for the learner, the first since ${momentOf(since)}. ${newest}`;
}

let stagesDrawn = "";

// Who served when. The last stage grows, so it is drawn anew every minute, and where the page's width changed.
function showStages() {
  byId("stages").hidden = stages.length === 0;
  const width = Math.max(byId("stages-figure").clientWidth, 280);
  const text = JSON.stringify([stages, width, Math.floor(Date.now() / MINUTE_MS)]);
  if (text === stagesDrawn || stages.length === 0) return;
  stagesDrawn = text;
  const words = standing(stages.at(-1));
  const svg = timeline({ spans: stages, until: Date.now() / 1000, width, label: `Who served when. ${words}` });
  const caption = element("figcaption", { textContent: `${words} ▲ promoted, ▼ rolled back.` });
  byId("stages-figure").replaceChildren(svg, caption);
}

function standing({ since, live, tried, against, weight }) {
  const share = `${(100 * weight).toLocaleString("en", { maximumFractionDigits: 1 })}% of users`;
  const beside = tried ? `, and ${tried} is on trial with ${share}` : against ? `, and ${share} keep ${against}` : "";
  return `Since ${momentOf(since)} ${live} is live${beside}.`;
}

function momentOf(at) {
  return new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

addEventListener("resize", showStages);

function showTasks(tasks) {
  const list = byId("to-do");
  const before = [...list.children].map((item) => item.textContent);
  if (before.join("\n") === tasks.join("\n")) return;
  list.replaceChildren(...tasks.map((task) => element("li", { textContent: task })));
  list.hidden = tasks.length === 0;
  if (tasks.length) announce(`To do: ${tasks.join(" ")}`);
}

function showFigures(told) {
  const { steps, opinions } = told;
  byId("learning").hidden = steps.count === 0 && opinions.length === 0;
  const partly = byId("learning-partly");
  partly.hidden = steps.complete;
  partly.textContent = steps.complete ? "" : "This gateway has not read all steps yet; it goes on while this page is open.";
  const times = [...steps.series.kl_nats, ...steps.series.reward, ...steps.series.accuracy].map(([at]) => at).concat(opinions.map(({ at }) => at));
  const time = { since: Math.min(...times), until: Math.max(...times) };
  byId("figures").replaceChildren(...[reward, people, kl, accuracy, entropy, tokens, cutOff].map((make) => make(told, time)).filter(Boolean));
}

// What the reward model says of answers, above what people say of versions: both over the same time.
function reward({ steps }, time) {
  const points = steps.series.reward;
  const said = points.length ? `The mean score of answers is ${signed(points.at(-1)[1])}, and was ${signed(points[0][1])} at first.` : "";
  const more = " If it rises while people prefer new versions less, the policy pleases the reward model and not them.";
  return card("Reward", "reward model's score", said && said + more, { lines: [{ points }], ...time }, points.length);
}

function people({ opinions }, time) {
  const said = opinions.filter(({ preferred }) => preferred !== null);
  const estimates = said.map((each) => ({ at: each.at, ...scaled(each.preferred), text: preference(each) }));
  const words = said.length ? `Newest: ${preference(said.at(-1))}. A dot is a version against the one before, with the interval that holds at every look. Dashed: equal.` : "";
  const lines = [{ points: [[time.since, 50], [time.until, 50]], dashed: true }];
  return card("Preferred by people", "% of users who compared", words, { lines, estimates, low: 0, high: 100, ...time }, said.length);
}

function kl({ steps }, time) {
  const { kl_nats: points, kl_budget_nats: budget } = steps.series;
  const now = points.length ? `The policy that is trained is ${points.at(-1)[1].toFixed(2)} nats from the base` : "";
  const words = now && `${now}${budget.length ? `; the budget (dashed) is ${budget.at(-1)[1].toFixed(2)}` : ", and there is no budget"}.`;
  return card("KL to the base", "nats per answer", words, { lines: [{ points }, { points: budget, dashed: true }], low: 0, ...time }, points.length);
}

function accuracy({ steps }, time) {
  const points = percent(steps.series.accuracy);
  const words = points.length ? `The reward model foresees ${points.at(-1)[1].toFixed(0)}% of the votes kept back from it. Dashed: a coin.` : "";
  const coin = { points: [[time.since, 50], [time.until, 50]], dashed: true };
  return card("Reward model's accuracy", "% of votes", words, { lines: [{ points }, coin], low: 0, high: 100, ...time }, points.length);
}

function entropy({ steps }, time) {
  const points = steps.series.entropy_nats;
  const words = points.length ? `The policy's entropy is ${points.at(-1)[1].toFixed(2)} nats per token. Near 0 it always says the same.` : "";
  return card("Entropy", "nats per token", words, { lines: [{ points }], low: 0, ...time }, points.length);
}

function tokens({ steps }, time) {
  const points = steps.series.response_tokens;
  const words = points.length ? `Answers have ${points.at(-1)[1].toFixed(0)} tokens on average, ${points[0][1].toFixed(0)} at first.` : "";
  return card("Length of answers", "tokens", words, { lines: [{ points }], low: 0, ...time }, points.length);
}

function cutOff({ steps }, time) {
  const points = percent(steps.series.cut_off);
  const words = points.length ? `The limit of length ended ${points.at(-1)[1].toFixed(0)}% of answers.` : "";
  return card("Answers cut off", "% of answers", words, { lines: [{ points }], low: 0, high: 100, ...time }, points.length);
}

// A figure with its title and what it shows in words; nothing where there is nothing to draw.
function card(title, unit, words, drawing, count) {
  if (!count) return null;
  const heading = element("h3", {}, title, element("span", { textContent: ` ${unit}` }));
  return element("figure", {}, heading, figure({ ...drawing, label: `${title}. ${words}` }), element("figcaption", { textContent: words }));
}

function preference({ version, against, preferred }) {
  const { value, low, high } = scaled(preferred);
  return `${version} preferred to ${against} in ${value.toFixed(0)}% [${low.toFixed(0)}, ${high.toFixed(0)}] of ${preferred.users.toLocaleString("en")} who compared`;
}

function scaled({ value, low, high }) {
  return { value: 100 * value, low: 100 * low, high: 100 * high };
}

function percent(points) {
  return points.map(([at, value]) => [at, 100 * value]);
}

function signed(number) {
  return `${number < 0 ? "" : "+"}${number.toFixed(2)}`;
}
