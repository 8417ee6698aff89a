// One prompt, asked of the base, of live and of the version on trial. Nothing of it is kept.

import { post } from "./api.js";
import { byId, element } from "./dom.js";

const said = byId("trying-said");
const NAMES = { base: "Base", live: "Live", canary: "Canary" };

async function ask(event) {
  event.preventDefault();
  const prompt = byId("trying-prompt").value.trim();
  if (!prompt) return byId("trying-prompt").focus();
  byId("trying-send").disabled = true;
  said.textContent = "Waiting for the answers.";
  byId("trying-answers").replaceChildren();
  try {
    const { answers } = await (await post("/v1/releases/answers", { prompt })).json();
    byId("trying-answers").replaceChildren(...answers.map(card));
    said.textContent = "All were asked with the same seed. Nothing of it is kept.";
  } catch (failure) {
    said.textContent = failure.message || "The gateway does not answer.";
  }
  byId("trying-send").disabled = false;
}

function card({ name, version, text, ended, error }) {
  const heading = element("h3", {}, NAMES[name], element("code", { textContent: version }));
  const words = element("p", { className: error ? "note" : "", textContent: error ?? (text || "(no words)") });
  const cut = !error && !ended ? [element("p", { className: "note", textContent: "Cut off here." })] : [];
  return element("article", {}, heading, words, ...cut);
}

byId("trying-form").addEventListener("submit", ask);
