// Where releases stand: who gets which version, what holds them, the evidence and the guardrails.

import { byId, element, icon } from "./dom.js";

const drawn = new Map();

// Fills an element anew only when what it shows has changed, so that a selected text stays selected.
function draw(id, shown, make) {
  const text = JSON.stringify(shown);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  byId(id).replaceChildren(...make(shown));
}

// seen: the answer of GET /v1/releases.
export function showStanding({ state, why }) {
  draw("headline", headline(state), (words) => [words]);
  draw("holds", holds(state), (words) => words.map((each) => element("li", { textContent: each })));
  byId("holds").hidden = holds(state).length === 0;
  draw("why", why, (words) => words.map((each) => element("li", { textContent: each })));
  draw("arms", arms(state), (all) => all.map(armRow));
  showOthers(state);
  showEvidence(state);
  showGuardrails(state.guardrails ?? {});
}

// What serves and what is on trial, in a sentence.
function headline(state) {
  const { stage, live, canary, control, weight, waiting, anchor } = state;
  const whom = anchor ? "nearly everybody" : "everybody";
  if (stage === null) return "The base model serves everybody; nothing was decided yet.";
  if (stage === "canary") return `${live} serves, and ${canary} is on trial with ${percent(weight)} of users.`;
  if (stage === "holdback") return `${live} serves, and ${percent(weight)} of users keep ${control} to compare it with.`;
  return waiting ? `${live} serves ${whom}, and ${waiting} waits for its trial.` : `${live} serves ${whom}; nothing is on trial.`;
}

function holds({ paused, frozen, pinned }) {
  return [paused && "Paused", frozen && "Frozen", pinned && `Pinned: ${pinned}`].filter(Boolean);
}

// Who gets what

// The anchor's users are drawn first; the other arms share the rest.
function arms({ stage, live, canary, control, weight, anchor, anchor_weight: anchored }) {
  if (stage === null) return [{ name: "Live", version: "base", share: 1 }];
  const rest = 1 - anchored;
  const all = [{ name: "Live", version: live, share: rest * (1 - 2 * weight) }];
  if (weight > 0) {
    all.push({ name: "Canary", version: canary, share: rest * weight });
    all.push({ name: "Control", version: control, share: rest * weight });
  }
  if (anchor) all.push({ name: "Anchor", version: anchor, share: anchored });
  return all;
}

function armRow({ name, version, share }) {
  const words = element("p", {}, element("strong", { textContent: name }), element("code", { textContent: version }), element("span", { className: "share", textContent: `${percent(share)} of users` }));
  return element("li", { className: name.toLowerCase() }, words, bar(share, `Share of users: ${name}`));
}

function showOthers(state) {
  const found = [
    ["Waits for its trial", state.waiting],
    ["In the shadow", state.shadow && `${state.shadow.prompts} of ${state.shadow.of} prompts answered that nobody sees`],
    ["Live before", state.previous],
    ["Live grew from", (state.lineage ?? []).slice(0, -1).join(" → ")],
    ["Engines that cannot prove a version in use", (state.quarantined ?? []).join(", ")],
    ["Asked for and not answered yet", state.unanswered?.length ? String(state.unanswered.length) : ""],
  ].filter(([, value]) => value);
  draw("others", found, (pairs) => pairs.map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
  byId("others").hidden = found.length === 0;
}

// Evidence. It is a product of what each user adds, so a bar rises with its logarithm, from 1 to the bound.

const TESTS = {
  promote: "Users like it better",
  harm: "It does harm",
  not_awful: "It is not far worse (for the next step)",
  no_worse: "Thumbs are no lower",
  no_worse_compared: "Comparisons agree",
  voters_alike: "As many vote in both buckets",
};

function showEvidence({ evidence }) {
  byId("evidence").hidden = !evidence;
  if (!evidence) return;
  draw("bars", { ...evidence.tests, ...evidence.proofs }, (tests) => Object.entries(tests).map(testRow));
  draw("voters", [evidence.users, evidence.values], ([users, values]) => voterRows(users, values));
  draw("pairs", pairsSaid(evidence), (words) => [words]);
}

function testRow([name, { evidence, bound }]) {
  const label = TESTS[name] ?? spaced(name);
  const reached = evidence >= bound;
  const words = element("p", {}, element("span", { textContent: label }), element("span", { className: "share", textContent: `${short(evidence)} of ${short(bound)}${reached ? ", shown" : ""}` }));
  const filled = bound > 1 ? Math.log(Math.max(evidence, 1)) / Math.log(bound) : 1;
  return element("li", { className: name === "harm" ? "harm" : "" }, words, bar(Math.min(filled, 1), `Evidence: ${label}`));
}

function voterRows(users, values) {
  const heads = ["Bucket", "Users who gave thumbs", "Thumbs up"].map((text) => element("th", { scope: "col", textContent: text }));
  const rows = ["canary", "control"].map((arm) => {
    const value = values[arm] === null ? "none yet" : percent(values[arm]);
    const cells = [users[arm], value].map((text) => element("td", { textContent: String(text) }));
    return element("tr", {}, element("th", { scope: "row", textContent: spaced(arm) }), ...cells);
  });
  return [element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)];
}

function pairsSaid({ pairs, mean_difference: difference, compared, preferred, complete }) {
  const signed = difference === null ? "" : `, ${difference < 0 ? "" : "+"}${short(100 * difference)} points in thumbs up`;
  const chosen = preferred === null ? "" : `, ${percent(preferred)} prefer the new one`;
  const part = complete ? "" : " A part of the votes only: the controller has not read all of them yet.";
  return `${pairs} paired users${signed}; ${compared} users compared both${chosen}.${part}`;
}

// Guardrails

const GUARDRAILS = {
  sample_ratio: "As many users in both buckets",
  failed_requests: "Requests without an answer",
  empty_answers: "Empty answers",
  cut_off_answers: "Answers cut off by the token limit",
  answer_tokens: "Length of answers",
  token_seconds: "Time per token",
  ttft_seconds: "Time to the first token",
  feedback_rate: "Users who vote",
};
const SIGNS = { held: "held", failed: "failed" };

function showGuardrails(guardrails) {
  draw("guardrails", guardrails, (all) => Object.entries(all).map(guardrailRow));
  byId("guarded").hidden = Object.keys(guardrails).length === 0;
}

function guardrailRow([name, became]) {
  const sign = SIGNS[became] ?? "open";
  return element("li", { className: sign }, icon(sign), element("span", { textContent: GUARDRAILS[name] ?? spaced(name) }), element("strong", { textContent: became }));
}

// Words and numbers

function bar(filled, label) {
  return element("progress", { max: 1, value: filled, "aria-label": label });
}

function percent(share) {
  return `${(100 * share).toLocaleString("en", { maximumFractionDigits: 1 })}%`;
}

function short(number) {
  return number >= 1e6 ? number.toExponential(1) : Number(number.toPrecision(3)).toLocaleString("en");
}

function spaced(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}
