// A vote: sent, changed by another press, taken back by the same one. What is lit is what the service has.

import { post, remove } from "./api.js";
import { announce, element, iconButton } from "./dom.js";

export class Vote {
  #busy = false;

  // user: who votes. body: gives what is sent for a value. saved: gives what is said of a value that was stored.
  // inForce: {value, id} of an earlier vote, or null. changed: is told what is in force from then on.
  constructor({ user, body, saved, inForce, changed }) {
    Object.assign(this, { user, body, saved, inForce, changed });
    this.line = element("span", { className: "said" });
  }

  async press(value) {
    if (this.#busy) return;
    this.#busy = true;
    this.#say("");
    try {
      this.#say(this.inForce?.value === value ? await this.#takeBack() : await this.#send(value));
    } catch (failure) {
      this.#failed(failure, value);
    } finally {
      this.#busy = false;
    }
    this.changed(this.inForce);
  }

  async #send(value) {
    const stored = await (await post("/v1/feedback", { ...this.body(value), user: this.user })).json();
    this.inForce = { value, id: stored.id };
    return this.saved(value);
  }

  // The user is named because the key may be another one than the vote came by.
  async #takeBack() {
    await remove(`/v1/feedback/${encodeURIComponent(this.inForce.id)}?user=${encodeURIComponent(this.user)}`);
    this.inForce = null;
    return "Your vote was taken back.";
  }

  #say(words) {
    this.line.className = "said";
    this.line.textContent = words;
    if (words) announce(words);
  }

  #failed(failure, value) {
    this.#say(failure.status === 503 ? "Your vote could not be saved just now." : "Your vote could not be sent.");
    this.line.className = "said failed";
    const again = element("button", { type: "button", className: "again", textContent: "Try again" });
    again.onclick = () => this.press(value);
    this.line.append(again);
  }
}

// Thumbs for an answer, and the line that says how the vote went. turn: as in conversation.js.
export function thumbs(turn, user, changed) {
  const saved = { up: "Thanks, noted.", down: "Thanks, we will do better." };
  const buttons = {};
  const show = (inForce) => {
    for (const [name, button] of Object.entries(buttons)) {
      button.setAttribute("aria-pressed", String(name === inForce?.value));
    }
  };
  const vote = new Vote({
    user,
    body: (value) => ({ kind: "thumbs", completion_id: turn.id, value }),
    saved: (value) => saved[value],
    inForce: turn.vote,
    changed: (inForce) => {
      show(inForce);
      changed(inForce);
    },
  });
  buttons.up = iconButton("up", "Good answer", () => vote.press("up"));
  buttons.down = iconButton("down", "Bad answer", () => vote.press("down"));
  show(turn.vote);
  return { buttons: [buttons.up, buttons.down], line: vote.line };
}
