// What an operator can ask for: a dialog for each action that says what follows and takes the reason.

import { ApiFailure, post } from "./api.js";
import { versionsDecided } from "./decisions.js";
import { byId, element, randomName } from "./dom.js";

const WAIT_SECONDS = 20;
const dialog = byId("ask");
const reason = byId("ask-reason");
const version = byId("ask-version");

// what: what follows, by the state of releases and the version typed; nothing is sent once that is not what the
// dialog says any more. concerns: the version that goes or comes. names: whether the command names it.
const ACTIONS = {
  pause: {
    label: "Pause",
    what: () => "The running release stays as it is: no canary starts, grows, is promoted or ends. Harm and guardrails still roll back.",
  },
  resume: { label: "Resume", what: () => "Releases go on from where they were paused." },
  freeze: { label: "Freeze", what: () => "No canary starts until releases are unfrozen. One that runs goes on to its end." },
  unfreeze: { label: "Unfreeze", what: () => "Canaries may start again." },
  pin: {
    label: "Pin",
    danger: true,
    names: true,
    concerns: (state, typed) => typed,
    what: ({ live, canary }, typed) => pinned(typed || "The version", live ?? "base", canary),
  },
  unpin: { label: "Unpin", what: ({ pinned: version }) => `${version} may be replaced again: releases go on from what is live.` },
  promote: {
    label: "Promote",
    danger: true,
    names: true,
    concerns: ({ canary }) => canary,
    what: ({ live, canary }) => `${canary} becomes live in place of ${live}, without waiting for evidence. A holdback follows, so harm that shows later still rolls back.`,
  },
  rollback: {
    label: "Roll back",
    danger: true,
    names: true,
    concerns: ({ stage, live, canary, previous }) => (stage === "canary" ? canary : previous && live),
    what: ({ stage, live, canary, previous }) => {
      if (stage === "canary") return `The trial of ${canary} ends, and ${live} serves everybody.`;
      if (previous) return `${live} is taken back, and ${previous} serves everybody.`;
      return `No version came before ${live ?? "base"}, so there is nothing to go back to.`;
    },
  },
};

// The buttons: the name of the action that each offers by the state of releases, null for none.
const OFFERS = [
  ({ paused }) => (paused ? "resume" : "pause"),
  ({ frozen }) => (frozen ? "unfreeze" : "freeze"),
  () => "pin",
  ({ pinned: version }) => (version ? "unpin" : null),
  ({ stage }) => (stage === "canary" ? "promote" : null),
  () => "rollback",
];
const buttons = OFFERS.map(() => element("button", { type: "button" }));
byId("actions").append(...buttons);

function pinned(chosen, live, canary) {
  const instead = chosen === live ? "" : ` in place of ${live}`;
  const ends = canary && canary !== chosen && canary !== live ? ` The trial of ${canary} ends.` : "";
  return `${chosen} serves everybody${instead}, and nothing replaces it until it is unpinned.${ends}`;
}

let state = {}; // of releases, as it was seen last
let asked = null; // name of the action whose dialog is open
let told = null; // the version that the dialog says it is about
let sent = null; // {body, key} of a command of which it is not known what became

// seen: the answer of GET /v1/releases.
export function offerActions(seen) {
  state = seen.state;
  OFFERS.forEach((offer, i) => {
    const name = offer(state);
    const button = buttons[i];
    if (!name && button === document.activeElement) buttons[0].focus();
    button.hidden = !name;
    if (!name) return;
    const { label, danger } = ACTIONS[name];
    button.textContent = danger ? `${label}…` : label;
    button.className = danger ? "plain danger" : "plain";
    button.onclick = () => open(name);
  });
}

export function closeDialog() {
  dialog.close();
}

function open(name) {
  asked = name;
  sent = null;
  const { label, danger } = ACTIONS[name];
  byId("ask-title").textContent = label;
  dialog.classList.toggle("danger", Boolean(danger));
  byId("ask-pin").hidden = name !== "pin";
  byId("ask-fields").hidden = false;
  byId("ask-send").hidden = byId("ask-send").disabled = false;
  byId("ask-close").textContent = "Cancel";
  reason.value = version.value = "";
  say("", "");
  if (name === "pin") offerVersions();
  explain();
  dialog.showModal();
  (name === "pin" ? version : reason).focus();
}

function explain() {
  const { label, what, concerns } = ACTIONS[asked];
  told = concerns?.(state, typedVersion()) ?? null;
  byId("ask-what").textContent = what(state, typedVersion());
  byId("ask-send").textContent = [label, told].filter(Boolean).join(" ");
}

function offerVersions() {
  const known = new Set(["base", state.live, state.canary, state.previous, state.waiting, ...versionsDecided()]);
  byId("ask-versions").replaceChildren(...[...known].filter(Boolean).map((value) => element("option", { value })));
}

function typedVersion() {
  return version.value.trim();
}

function say(said, wrong, field = null) {
  byId("ask-said").textContent = said;
  byId("ask-wrong").textContent = wrong;
  for (const each of [reason, version]) each.setAttribute("aria-invalid", String(each === field));
  field?.focus();
}

async function submit(event) {
  event.preventDefault();
  const { what, names } = ACTIONS[asked];
  if (asked === "pin" && !typedVersion()) return say("", "Say which version.", version);
  if (!reason.value.trim()) return say("", "Say why: the decision keeps the reason.", reason);
  if (what(state, typedVersion()) !== byId("ask-what").textContent) {
    explain();
    return say("", "Releases changed while this was open. Read again what follows, and send it if it is still right.");
  }
  const body = { action: asked, reason: reason.value.trim() };
  if (names) body.version = told;
  await send(body);
}

// A command whose answer was lost is sent again under its own key, and so is done once.
async function send(body) {
  if (JSON.stringify(sent?.body) !== JSON.stringify(body)) sent = { body, key: `page-${randomName()}` };
  const mine = sent;
  byId("ask-send").disabled = true;
  say("Sent. Waiting for the controller's decision.", "");
  try {
    const answer = await post(`/v1/releases/actions?wait=${WAIT_SECONDS}`, body, undefined, { "idempotency-key": mine.key });
    const found = await answer.json();
    if (sent === mine) finish(found);
  } catch (failure) {
    if (sent === mine) say("", refusal(failure));
  }
  byId("ask-send").disabled = false;
}

function finish({ decision, waits_for: missing }) {
  const done = decision?.sentence ?? "It is in the log, and will be done when a controller runs.";
  say(missing ? `${done} Not finished: ${missing}.` : done, "");
  byId("ask-fields").hidden = true;
  byId("ask-send").hidden = true;
  byId("ask-close").textContent = "Close";
  byId("ask-close").focus();
}

function refusal(failure) {
  if (!(failure instanceof ApiFailure)) return "The gateway does not answer. Send it again: it is the same command, and done once.";
  if (failure.status < 500) sent = null; // answered for good: what is sent next is another command
  return failure.message || `The gateway answered with ${failure.status}.`;
}

byId("ask-form").addEventListener("submit", submit);
byId("ask-close").addEventListener("click", closeDialog);
version.addEventListener("input", explain);
dialog.addEventListener("close", () => {
  sent = null;
  if (document.activeElement === document.body) buttons[0].focus(); // the button that opened it is gone
});
