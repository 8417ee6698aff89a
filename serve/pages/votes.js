// A vote: sent, changed by another press, taken back by the same one. What is lit is what the service has.

import { get, inWords, post, remove } from "./api.js";
import { announce, element, iconButton } from "./dom.js";

export class Vote {
  #busy = false;

  // user: who votes. body: gives what is sent for a value. saved: gives what is said of a value that was stored.
  // inForce: {value, id} of an earlier vote, or null. changed: is told what is in force from then on.
  // line: says how it went. receipt: asks what became of it.
  constructor({ user, body, saved, inForce, changed }) {
    Object.assign(this, { user, body, saved, inForce, changed });
    this.line = element("span", { className: "said" });
    this.receipt = element("button", { type: "button", className: "link", textContent: "What became of it?", onclick: () => this.#ask() });
    this.receipt.hidden = !inForce;
  }

  async press(value) {
    await this.#attempt(() => (this.inForce?.value === value ? this.#takeBack() : this.#send(value)), () => this.press(value));
  }

  // Says more of the vote in force: its reasons. Whether that was stored.
  add(more, thanks) {
    return this.#attempt(async () => {
      await this.#send(this.inForce.value, more);
      return thanks;
    }, () => this.add(more, thanks));
  }

  async #attempt(act, again) {
    if (this.#busy) return false;
    this.#busy = true;
    this.#say("");
    let stored = true;
    try {
      this.#say(await act());
    } catch (failure) {
      stored = false;
      this.#failed(failure, again);
    } finally {
      this.#busy = false;
    }
    this.receipt.hidden = !this.inForce;
    this.changed(this.inForce);
    return stored;
  }

  async #send(value, more = {}) {
    const stored = await (await post("/v1/feedback", { ...this.body(value), ...more, user: this.user })).json();
    this.inForce = { value, id: stored.id };
    return this.saved(value);
  }

  // The user is named because the key may be another one than the vote came by.
  async #takeBack() {
    await remove(`/v1/feedback/${encodeURIComponent(this.inForce.id)}?user=${encodeURIComponent(this.user)}`);
    this.inForce = null;
    return "Your vote was taken back.";
  }

  async #ask() {
    try {
      const receipt = await (await get(`/v1/feedback/${encodeURIComponent(this.inForce.id)}`)).json();
      this.#say(receipt.sentence);
    } catch (failure) {
      this.#say(inWords(failure));
    }
  }

  #say(words) {
    this.line.className = "said";
    this.line.textContent = words;
    if (words) announce(words);
  }

  #failed(failure, again) {
    this.#say(failure.status === 503 ? "Your vote could not be saved just now." : "Your vote could not be sent.");
    this.line.className = "said failed";
    this.line.append(element("button", { type: "button", className: "again", textContent: "Try again", onclick: again }));
  }
}

// Buttons of which one is lit: the value that is in force.
function light(buttons, inForce) {
  for (const [value, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(value === inForce?.value));
}

// Thumbs for an answer, and the vote behind them. turn: as in conversation.js. changed: as a vote's.
export function thumbs(turn, user, changed) {
  const saved = { up: "Thanks, noted.", down: "Thanks, we will do better." };
  const buttons = {};
  const vote = new Vote({
    user,
    body: (value) => ({ kind: "thumbs", completion_id: turn.id, value }),
    saved: (value) => saved[value],
    inForce: turn.vote,
    changed: (inForce) => {
      light(buttons, inForce);
      changed(inForce);
    },
  });
  buttons.up = iconButton("up", "Good answer", () => vote.press("up"));
  buttons.down = iconButton("down", "Bad answer", () => vote.press("down"));
  light(buttons, turn.vote);
  return { buttons: [buttons.up, buttons.down], vote };
}

const THAN_BEFORE = { a: "Better", b: "Worse", tie: "The same" };

// Asks whether a new answer is better than the one that it took the place of. turn.before: {id, vote}.
export function thanBefore(turn, user, changed) {
  const buttons = {};
  const vote = new Vote({
    user,
    body: (preferred) => ({ kind: "comparison", a: turn.id, b: turn.before.id, preferred }),
    saved: () => "Thanks, your choice counts.",
    inForce: turn.before.vote,
    changed: (inForce) => {
      light(buttons, inForce);
      changed(inForce);
    },
  });
  for (const [value, label] of Object.entries(THAN_BEFORE)) {
    buttons[value] = element("button", { type: "button", className: "chip", textContent: label, onclick: () => vote.press(value) });
  }
  light(buttons, turn.before.vote);
  const asked = element("span", { className: "said", textContent: "Was this better than the answer before?" });
  const all = [asked, ...Object.values(buttons), vote.line, vote.receipt];
  return element("div", { className: "than-before", role: "group", "aria-label": asked.textContent }, ...all);
}
