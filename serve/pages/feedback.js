// <hearken-feedback>: thumbs, reasons and corrections for one answer, on any page.
//
//   <script type="module" src="https://chat.example.com/feedback.js"></script>
//   <hearken-feedback completion="chatcmpl-.." token="ft_.." answer="The answer's text"></hearken-feedback>
//
// completion, token  from the answer that the page shows; the token allows votes on that answer, for a while
// answer             the text; without it no correction is offered
// signals            comma-separated names of what the page tells of by element.did("accepted"); what did not happen
//                    until the page is left is told as well, for that tells something, too
// watch              CSS selector of the element with the answer: when somebody copies from it, that is "copied"
// reasons            comma-separated words to choose from after a thumb down; those of the service unless given, and
//                    none if it is empty
// choice             index of the choice, 0 unless the request asked for several
// base               where hearken is; where this script came from unless told otherwise
//
// Every stored vote is told by an event "hearken-feedback" with {id, kind, value} as its detail. Texts for people
// are in HearkenFeedback.words. Colours: --hearken-accent, --hearken-line, --hearken-surface, --hearken-text.

import { did, flush, shown } from "./signals.js";

// A constructed sheet, because many pages forbid inline styles.
const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
:host { display: inline-block; font: inherit; color: var(--hearken-text, inherit); }
:host([hidden]), [hidden] { display: none !important; }
button, textarea, label { font: inherit; color: inherit; }
button { min-width: 2rem; min-height: 2rem; padding: .2rem .5rem; border: 1px solid var(--hearken-line, #8888);
  border-radius: .5rem; background: none; cursor: pointer; }
button:hover { border-color: currentColor; }
button[aria-pressed=true], button[type=submit] { background: var(--hearken-accent, #1a5fb4); color: #fff;
  border-color: transparent; }
button:disabled { opacity: .5; cursor: default; }
:focus-visible { outline: 2px solid var(--hearken-accent, #1a5fb4); outline-offset: 2px; }
svg { width: 1rem; height: 1rem; vertical-align: -.15rem; fill: none; stroke: currentColor; stroke-width: 1.8;
  stroke-linejoin: round; stroke-linecap: round; }
form { max-width: 36rem; margin-top: .5rem; padding: .75rem; border: 1px solid var(--hearken-line, #8888);
  border-radius: .5rem; background: var(--hearken-surface, transparent); }
fieldset { border: 0; margin: 0 0 .5rem; padding: 0; }
legend { padding: 0; margin-bottom: .25rem; }
fieldset label { display: inline-flex; gap: .35rem; margin-right: 1rem; min-height: 1.75rem; align-items: center; }
textarea { display: block; box-sizing: border-box; width: 100%; min-height: 6rem; margin: .25rem 0 .5rem;
  padding: .4rem; border: 1px solid var(--hearken-line, #8888); border-radius: .4rem; background: none; }
.diff { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .5rem; }
ins { background: #2ec27e40; } del { background: #e01b2440; }
[role=status] { margin-left: .5rem; font-size: .875em; }`);

const UP = "M7 11v9H4v-9zM7 11l4-8c2 0 3 1 2.500 3.500L13 9h6c1.500 0 2 1 1.700 2.200l-1.700 7c-.3 1.200-1 1.800-2 1.800H7";
const icon = (turned) =>
  `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${UP}" transform="rotate(${turned ? 180 : 0} 12 12)"/></svg>`;

// The words that were taken out and put in: the longest common subsequence, between a common head and tail.
export function difference(before, after) {
  const a = before.split(/(\s+)/), b = after.split(/(\s+)/);
  let head = 0, tail = 0;
  while (head < Math.min(a.length, b.length) && a[head] === b[head]) head++;
  while (tail < Math.min(a.length, b.length) - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const x = a.slice(head, a.length - tail), y = b.slice(head, b.length - tail);
  const parts = [[" ", a.slice(0, head)]];
  if (x.length * y.length > 1e6) parts.push(["-", x], ["+", y]); // too long to look closer
  else {
    const common = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
    for (let i = x.length - 1; i >= 0; i--)
      for (let j = y.length - 1; j >= 0; j--)
        common[i][j] = x[i] === y[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    let i = 0, j = 0;
    while (i < x.length || j < y.length)
      if (i < x.length && j < y.length && x[i] === y[j]) parts.push([" ", [x[i++]]]), j++;
      else if (j === y.length || (i < x.length && common[i + 1][j] >= common[i][j + 1])) parts.push(["-", [x[i++]]]);
      else parts.push(["+", [y[j++]]]);
  }
  const merged = [];
  for (const [kind, words] of [...parts, [" ", a.slice(a.length - tail)]])
    if (merged.at(-1)?.[0] === kind) merged.at(-1)[1] += words.join("");
    else if (words.length) merged.push([kind, words.join("")]);
  return merged;
}

export class HearkenFeedback extends HTMLElement {
  static observedAttributes = ["completion", "choice", "answer", "reasons", "token", "signals"];
  static words = {
    group: "Rate this answer",
    up: "Good answer",
    down: "Bad answer",
    why: "What was wrong?",
    send: "Send",
    correct: "Suggest a better answer",
    better: "What it should have said",
    changes: (removed, added) => `${removed} removed, ${added} added`,
    thanks: "Thank you.",
    removed: "Your vote was taken back.",
    corrected: "Thank you for the better answer.",
    failed: "This could not be sent. Please try again.",
  };

  #root = this.attachShadow({ mode: "open" });
  #vote = null; // the thumb in force: {value, id}
  #at = (part) => this.#root.querySelector(`[part=${part}]`);

  constructor() {
    super();
    this.#root.addEventListener("keydown", (event) => this.#close(event));
  }

  #copied = (event) => {
    const watched = this.getAttribute("watch");
    if (watched && event.target.closest?.(watched)) this.did("copied");
  };

  connectedCallback() {
    document.addEventListener("copy", this.#copied);
    this.#draw();
    this.#show();
  }

  disconnectedCallback() {
    document.removeEventListener("copy", this.#copied);
    flush();
  }

  // Tells what the reader did with the answer, when the page is left.
  did(name) {
    did(this.#answer(), name);
  }

  #answer() {
    const choice = Number(this.getAttribute("choice") ?? 0);
    return { url: this.#url("").href, id: this.getAttribute("completion"), choice, token: this.getAttribute("token") };
  }

  #show() {
    const names = (this.getAttribute("signals") ?? "").split(",").map((name) => name.trim()).filter(Boolean);
    if (this.hasAttribute("watch")) names.push("copied");
    if (this.getAttribute("completion")) shown(this.#answer(), names);
  }

  attributeChangedCallback(name, before, after) {
    if (!this.isConnected || before === after) return;
    if (name === "completion" || name === "choice") this.#vote = null; // another answer
    if (name !== "token" && name !== "signals") this.#draw();
    this.#show();
  }

  #draw() {
    const words = HearkenFeedback.words, answer = this.getAttribute("answer");
    this.#root.adoptedStyleSheets = [SHEET];
    this.#root.innerHTML = `<span role="group">
      <button part="up" aria-pressed="false">${icon()}</button>
      <button part="down" aria-pressed="false">${icon(true)}</button>
      <button part="correct" aria-expanded="false"></button></span><span role="status" part="status"></span>
      <form part="why" hidden><fieldset><legend></legend></fieldset><button type="submit"></button></form>
      <form part="edit" hidden><label><span></span><textarea required></textarea></label>
      <p class="diff"></p><p class="count"></p><button type="submit"></button></form>`;
    this.#root.querySelector("[role=group]").setAttribute("aria-label", words.group);
    for (const value of ["up", "down"]) {
      const button = this.#at(value);
      button.title = words[value];
      button.setAttribute("aria-label", words[value]);
      button.setAttribute("aria-pressed", this.#vote?.value === value);
      button.onclick = () => this.#thumb(value);
    }
    this.#at("correct").textContent = words.correct;
    this.#at("correct").hidden = answer === null;
    this.#at("correct").onclick = () => this.#open(this.#at("edit").hidden);
    this.#drawReasons(words);
    this.#drawEditor(words, answer ?? "");
  }

  #close(event) {
    if (event.key !== "Escape" || (this.#at("edit").hidden && this.#at("why").hidden)) return;
    const back = this.#at("edit").hidden ? "down" : "correct";
    this.#open(false);
    this.#at("why").hidden = true;
    this.#at(back).focus();
  }

  // Those of the service are kept by the browser for a while. Without them people are asked for no reason.
  async #reasons() {
    const named = this.getAttribute("reasons");
    if (named !== null) return named.split(",").map((word) => word.trim()).filter(Boolean);
    const answer = await fetch(this.#url("-reasons"), { credentials: "omit" }).catch(() => null);
    return answer?.ok ? (await answer.json()).down : [];
  }

  async #askWhy() {
    const form = this.#at("why"), legend = form.querySelector("legend"), reasons = await this.#reasons();
    const choices = reasons.map((reason) => {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.value = reason;
      label.append(box, reason.replaceAll("_", " "));
      return label;
    });
    form.querySelector("fieldset").replaceChildren(legend, ...choices);
    form.hidden = this.#vote?.value !== "down" || !reasons.length;
  }

  #drawReasons(words) {
    const form = this.#at("why");
    form.querySelector("legend").textContent = words.why;
    form.querySelector("button").textContent = words.send;
    form.onsubmit = async (event) => {
      event.preventDefault();
      const reasons = [...form.querySelectorAll(":checked")].map((box) => box.value);
      if (await this.#send({ kind: "thumbs", value: "down", reasons }, words.thanks)) {
        form.hidden = true;
        this.#at("down").focus();
      }
    };
  }

  #drawEditor(words, answer) {
    const form = this.#at("edit"), text = form.querySelector("textarea");
    form.querySelector("label span").textContent = words.better;
    form.querySelector("button").textContent = words.send;
    text.value = answer;
    const show = () => {
      const parts = difference(answer, text.value), size = { "+": 0, "-": 0 };
      form.querySelector(".diff").replaceChildren(
        ...parts.map(([kind, words]) => {
          if (kind === " ") return words;
          size[kind] += words.trim() ? words.trim().split(/\s+/).length : 0;
          const mark = document.createElement(kind === "+" ? "ins" : "del");
          mark.textContent = words;
          return mark;
        }),
      );
      form.querySelector(".count").textContent = words.changes(size["-"], size["+"]);
      form.querySelector("button").disabled = text.value === answer || !text.value.trim();
    };
    text.oninput = show;
    show();
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (await this.#send({ kind: "correction", text: text.value }, words.corrected)) {
        this.#open(false);
        this.#at("correct").focus();
      }
    };
  }

  #open(open) {
    this.#at("edit").hidden = !open;
    this.#at("correct").setAttribute("aria-expanded", open);
    if (open) this.#at("edit").querySelector("textarea").focus();
  }

  async #thumb(value) {
    const words = HearkenFeedback.words;
    if (this.#vote?.value === value) {
      if (!(await this.#request("DELETE", "/" + encodeURIComponent(this.#vote.id), null, words.removed))) return;
      this.#vote = null;
    } else if (!(await this.#send({ kind: "thumbs", value }, words.thanks))) return;
    for (const name of ["up", "down"]) this.#at(name).setAttribute("aria-pressed", this.#vote?.value === name);
    if (this.#vote?.value === "down") await this.#askWhy();
    else this.#at("why").hidden = true;
  }

  async #send(vote, thanks) {
    const about = { completion_id: this.getAttribute("completion"), choice: Number(this.getAttribute("choice") ?? 0) };
    const stored = await this.#request("POST", "", { ...vote, ...about }, thanks);
    if (!stored) return false;
    if (vote.kind === "thumbs") this.#vote = { value: vote.value, id: stored.id };
    const detail = { id: stored.id, kind: vote.kind, value: vote.value };
    this.dispatchEvent(new CustomEvent("hearken-feedback", { detail, bubbles: true, composed: true }));
    return true;
  }

  #url(path) {
    const base = this.getAttribute("base") ?? new URL(".", import.meta.url).href;
    return new URL("v1/feedback" + path, base.endsWith("/") ? base : base + "/");
  }

  // The answer's JSON, or false when the vote was not stored; people are told either way.
  async #request(method, path, body, thanks) {
    const buttons = this.#root.querySelectorAll("button");
    const enabled = [...buttons].filter((button) => !button.disabled);
    const focused = this.#root.activeElement;
    enabled.forEach((button) => (button.disabled = true));
    try {
      const headers = { "content-type": "application/json", authorization: "Bearer " + this.getAttribute("token") };
      const answer = await fetch(this.#url(path), { method, headers, body: body && JSON.stringify(body), credentials: "omit" });
      if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message ?? answer.status);
      this.#at("status").textContent = thanks;
      return answer.status === 204 ? {} : await answer.json();
    } catch (error) {
      console.warn("hearken-feedback:", error.message);
      this.#at("status").textContent = HearkenFeedback.words.failed;
      return false;
    } finally {
      enabled.forEach((button) => (button.disabled = false));
      focused?.focus();
    }
  }
}

customElements.define("hearken-feedback", HearkenFeedback);
