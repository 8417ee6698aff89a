// What is kept of this person, forgetting it, and whether they let the service keep their chats where it asks.

import { get, inWords, remove } from "./api.js";
import { announce, byId } from "./dom.js";

const STORE = "hearken.consent";
const panel = byId("mine");

let asks = false; // whether the service keeps nothing of who has not said yes
let said = null; // what this person said: true, false, or null for nothing yet

try {
  said = { yes: true, no: false }[localStorage.getItem(STORE)] ?? null;
} catch {
  // storage can be switched off; the answer then lasts as long as the page
}

// What a request says of consent: nothing where the service does not ask.
export function consent() {
  return asks && said !== null ? { hearken: { consent: said } } : {};
}

// The service asks for consent, or does not.
export function askConsent(does) {
  asks = does;
  byId("consent").hidden = !asks || said !== null;
  byId("mine-consent").hidden = !asks;
  byId("mine-keep").checked = said === true;
}

function answer(yes) {
  said = yes;
  try {
    localStorage.setItem(STORE, yes ? "yes" : "no");
  } catch {
    // as above
  }
  askConsent(asks);
  announce(yes ? "Your chats are kept from now on." : "Your chats are not kept.");
}

// user: by the name that the chats give. forgotten: called when everything of the user was erased.
export function offerMine(user, forgotten) {
  const path = `/v1/users?name=${encodeURIComponent(user)}&by=name`;
  const tell = (words, failed = false) => {
    byId("mine-kept").textContent = words;
    byId("mine-kept").className = failed ? "failed" : "";
  };
  byId("mine-open").addEventListener("click", async () => {
    sure(false);
    byId("mine-forget").hidden = true;
    tell("Looking …");
    panel.showModal();
    try {
      const kept = await (await get(path)).json();
      tell(kept.found ? inSentence(kept) : "Nothing is kept of you.");
      byId("mine-forget").hidden = !kept.found;
    } catch (failure) {
      if (failure.status === 403) tell(`Whoever runs this service can tell you, and can forget you. Give them this name: ${user}`);
      else tell(inWords(failure), true);
    }
  });
  byId("mine-forget").addEventListener("click", () => sure(true));
  byId("mine-sure-no").addEventListener("click", () => sure(false));
  byId("mine-sure-yes").addEventListener("click", async () => {
    try {
      await remove(path);
      forgotten();
    } catch (failure) {
      sure(false);
      tell(inWords(failure), true);
    }
  });
  byId("mine-close").addEventListener("click", () => panel.close());
  byId("mine-keep").addEventListener("change", (event) => answer(event.target.checked));
  byId("consent-yes").addEventListener("click", () => answer(true));
  byId("consent-no").addEventListener("click", () => answer(false));
  panel.addEventListener("keydown", (event) => event.stopPropagation());
}

function sure(asked) {
  byId("mine-sure").hidden = !asked;
  byId("mine-buttons").hidden = asked;
  byId(asked ? "mine-sure-no" : "mine-close").focus();
}

function inSentence({ completions, votes, preferences, key }) {
  const given = votes.count - (votes.kinds.signal?.count ?? 0);
  const parts = [counted(completions.count, "answer"), counted(given, "vote")];
  if (preferences) parts.push("what you asked for in every answer");
  const since = [completions.first_at, votes.first_at].filter(Boolean).sort((a, b) => a - b)[0];
  const from = since ? `, since ${new Date(since * 1000).toLocaleDateString([], { dateStyle: "long" })}` : "";
  const texts = { present: " Your words are kept encrypted.", erased: " Your words were made unreadable for good." }[key] ?? " None of your words are kept.";
  return `Kept of you: ${parts.join(", ")}${from}.${texts}`;
}

function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}
