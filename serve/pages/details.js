// What a person may say beside a thumb: why an answer was bad, and what would have been a better one.

import { get, inWords, post } from "./api.js";
import { announce, element } from "./dom.js";
import { difference } from "./feedback.js";

// A form of reasons for the vote in force, and `ask`, which shows it if the vote is a thumb down. opened: called then.
export function whyForm(vote, opened) {
  const legend = element("legend", { textContent: "What was wrong?" });
  const choices = element("fieldset", {}, legend);
  const send = element("button", { type: "submit", className: "chip", textContent: "Send" });
  const form = element("form", { className: "details", hidden: true }, choices, send);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const reasons = [...form.querySelectorAll(":checked")].map((box) => box.value);
    send.disabled = true;
    if (await vote.add({ reasons }, "Thanks, that helps.")) form.hidden = true;
    send.disabled = false;
  });
  const ask = async () => {
    if (!form.hidden) return;
    const known = await get("/v1/feedback-reasons").then((answer) => answer.json()).catch(() => ({ down: [] }));
    if (vote.inForce?.value !== "down" || !known.down.length) return;
    choices.replaceChildren(legend, ...known.down.map(choice));
    form.hidden = false;
    opened();
  };
  return { form, ask };
}

function choice(reason) {
  const box = element("input", { type: "checkbox", value: reason });
  return element("label", { className: "chip" }, box, reason.replaceAll("_", " "));
}

// A form that takes a better answer and shows what was changed, and `open`, which shows it. turn: as in
// conversation.js; done: called when it is closed, with whether an answer was sent.
export function correctionForm(turn, user, done) {
  const text = element("textarea", { required: true, maxLength: 100_000 });
  const changes = element("p", { className: "diff text" });
  const said = element("span", { className: "said", role: "status" });
  const send = element("button", { type: "submit", className: "chip", textContent: "Send" });
  const cancel = element("button", { type: "button", className: "chip", textContent: "Cancel", onclick: () => close(false) });
  const label = element("label", {}, "What it should have said", text);
  const form = element("form", { className: "details", hidden: true }, label, changes, element("div", { className: "row" }, send, cancel, said));
  const close = (sent) => {
    form.hidden = true;
    done(sent);
  };
  const show = () => {
    changes.replaceChildren(...difference(turn.content, text.value).map(changed));
    changes.hidden = text.value === turn.content;
    send.disabled = changes.hidden || !text.value.trim();
  };
  text.addEventListener("input", show);
  form.addEventListener("keydown", (event) => {
    event.stopPropagation(); // keys that vote are not meant here
    if (event.key === "Escape") close(false);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    try {
      await post("/v1/feedback", { kind: "correction", completion_id: turn.id, text: text.value, user });
      announce("Thank you for the better answer.");
      close(true);
    } catch (failure) {
      said.textContent = inWords(failure);
      said.className = "said failed";
      send.disabled = false;
    }
  });
  const open = () => {
    text.value = turn.content;
    said.textContent = "";
    show();
    form.hidden = false;
    text.focus();
  };
  return { form, open };
}

function changed([kind, words]) {
  return kind === " " ? words : element(kind === "+" ? "ins" : "del", { textContent: words });
}
