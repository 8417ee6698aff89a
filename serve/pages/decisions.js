// The list of decisions, the newest first: what was done to releases, when, why, and who asked for it.

import { get } from "./api.js";
import { announce, byId, element } from "./dom.js";

const PAGE = 20;

const list = byId("decisions");
let newest = 0; // number of the newest decision in the list
let oldest = 0; // of the oldest one

// history: of an answer of GET /v1/releases; its newest decision is last.
export function takeNewest({ data, has_more: hasMore }) {
  const fresh = data.filter(({ number }) => number > newest);
  if (!fresh.length) return;
  const isFirst = newest === 0;
  if (isFirst || fresh[0].number > newest + 1) {
    list.replaceChildren(); // more was decided meanwhile than an answer has
    oldest = fresh[0].number;
    byId("older").hidden = !hasMore;
  }
  newest = fresh.at(-1).number;
  list.prepend(...fresh.map(row).reverse());
  if (!isFirst) announce(fresh.map(({ sentence }) => sentence).join(" "));
}

// Versions that decisions of the list are about.
export function versionsDecided() {
  return new Set([...list.querySelectorAll("code")].map(({ textContent }) => textContent));
}

async function showOlder() {
  const button = byId("older");
  button.disabled = true;
  byId("older-wrong").textContent = "";
  try {
    const { history } = await (await get(`/v1/releases?limit=${PAGE}&before=${oldest}`)).json();
    const rows = history.data.map(row).reverse();
    list.append(...rows);
    rows[0]?.querySelector("time").focus();
    oldest = history.data[0]?.number ?? oldest;
    button.hidden = !history.has_more;
  } catch (failure) {
    byId("older-wrong").textContent = failure.message || "The gateway does not answer.";
  }
  button.disabled = false;
}

function row({ number, at, outcome, version, sentence, who, reason }) {
  const moment = new Date(at * 1000);
  const time = element("time", { dateTime: moment.toISOString(), tabIndex: -1, textContent: moment.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" }) });
  const words = outcome.replaceAll("_", " ");
  const what = element("p", { className: "what" }, element("strong", { textContent: words[0].toUpperCase() + words.slice(1) }));
  if (version) what.append(element("code", { textContent: version }));
  what.append(time);
  const item = element("li", { value: number, className: outcome }, what, element("p", { textContent: sentence }));
  if (who) item.append(element("p", { className: "by", textContent: `Asked for by ${who}${reason ? `: ${reason}` : ", without a reason"}` }));
  return item;
}

byId("older").addEventListener("click", showOlder);
