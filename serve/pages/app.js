// The chat page. Text from people and models is only ever set as textContent, never as HTML.

import { askForKey, doneAsking, forgetKey, keyHeaders } from "./key.js";

const byId = (id) => document.getElementById(id);
const log = byId("log");
const question = byId("question");
const scroller = byId("scroller");

const SUGGESTIONS = ["What can you do?", "I need help with something", "Explain how this works"];

const state = {
  model: "hearken",
  user: storedUser(),
  comparing: false,
  history: [], // the messages of the conversation, as the API wants them
  running: null, // AbortController of the answer that is being written
  ballot: null, // the ballot that keys vote on
};

// Small tools

function stored(name, make) {
  try {
    const known = localStorage.getItem(name);
    if (known) return known;
    const made = make();
    if (made) localStorage.setItem(name, made);
    return made;
  } catch {
    return make(); // storage can be switched off
  }
}

function storedUser() {
  return stored("hearken.user", () => {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return "browser-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  });
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

function iconButton(name, label, onclick) {
  return element("button", { type: "button", className: "icon", title: label, "aria-label": label, onclick }, icon(name));
}

function announce(text) {
  byId("status").textContent = text;
}

// Scrolling: follow the newest text unless the reader has scrolled up.

let following = true;

function atEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}

function follow() {
  if (following) scroller.scrollTop = scroller.scrollHeight;
  byId("to-end").hidden = following || atEnd();
}

scroller.addEventListener("scroll", () => {
  following = atEnd();
  byId("to-end").hidden = following || !state.running;
});
byId("to-end").addEventListener("click", () => {
  following = true;
  follow();
});

// The API

class ApiFailure extends Error {
  constructor(status, error) {
    super(error?.message ?? "");
    this.status = status;
    this.code = error?.code ?? "";
  }
}

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", ...keyHeaders() },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    const failure = new ApiFailure(response.status, answer.error);
    if (failure.status === 401) askForKey("Your key is no longer accepted. Enter another one to go on.", enter);
    throw failure;
  }
  return response;
}

// Yields the parsed events of a streamed answer; throws ApiFailure for an error event or an early end.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiFailure(0, { code: "ended_early" });
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiFailure(0, event.error);
      yield event;
    }
  }
}

// What went wrong, for people.
function inWords(failure) {
  if (!(failure instanceof ApiFailure)) return "The service cannot be reached. Check your connection and try again.";
  if (failure.code === "context_length_exceeded") return "This conversation is too long for the model. Start a new one to go on.";
  if (failure.status === 401) return "Your key was no longer accepted.";
  if (failure.status === 413) return "This message is too long. Shorten it and try again.";
  if (failure.status === 503) return "The model is not available right now. It is usually back within a minute.";
  if (failure.status === 429) return "That was a little fast. Wait a moment and try again.";
  if (failure.status === 0) return "The answer broke off. You can try again.";
  if (failure.status >= 500) return "Something went wrong on our side. Try again in a moment.";
  return failure.message || "The message could not be answered.";
}

function trouble(failure, retry) {
  const fresh = failure.code === "context_length_exceeded";
  const button = element("button", { type: "button", onclick: fresh ? startOver : retry });
  button.textContent = fresh ? "New conversation" : "Try again";
  const words = inWords(failure);
  announce(words);
  return element("div", { className: "trouble" }, icon("alert"), element("p", { textContent: words }), button);
}

// Votes

// A line under a vote that says how it went; a vote that failed offers to send it again.
function voteLine() {
  return element("span", { className: "said" });
}

async function sendVote(vote, line, saved) {
  line.className = "said";
  line.textContent = "";
  try {
    await post("/v1/feedback", { ...vote, user: state.user });
    line.textContent = saved;
    announce(saved);
    return true;
  } catch (failure) {
    line.className = "said failed";
    line.textContent = failure.status === 503 ? "Your vote could not be saved just now." : "Your vote could not be sent.";
    announce(line.textContent);
    const again = element("button", { type: "button", className: "again", textContent: "Try again" });
    again.onclick = () => sendVote(vote, line, saved);
    line.append(again);
    return false;
  }
}

function thumbs(completionId) {
  const line = voteLine();
  const buttons = {};
  const vote = (value, saved) => {
    for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(name === value));
    sendVote({ kind: "thumbs", completion_id: completionId, value }, line, saved);
  };
  buttons.up = iconButton("up", "Good answer", () => vote("up", "Thanks, noted."));
  buttons.down = iconButton("down", "Bad answer", () => vote("down", "Thanks, we will do better."));
  for (const button of Object.values(buttons)) button.setAttribute("aria-pressed", "false");
  return [buttons.up, buttons.down, line];
}

function copyButton(read) {
  const button = iconButton("copy", "Copy", async () => {
    await navigator.clipboard.writeText(read());
    button.replaceChildren(icon("check"));
    announce("Copied.");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

// One question, answered

function showQuestion(text) {
  byId("welcome").hidden = true;
  const bubble = element("p", { className: "text mine", textContent: text });
  log.append(element("div", { className: "turn" }, element("span", { className: "hidden", textContent: "You said: " }), bubble));
}

function ask(text) {
  for (const button of log.querySelectorAll(".trouble button")) button.remove(); // too late to try those again
  state.history.push({ role: "user", content: text });
  showQuestion(text);
  following = true;
  answer();
}

// A question that got no answer leaves the conversation; trying again puts it back.
function unanswered(turn, failure) {
  const asked = state.history.pop();
  return trouble(failure, () => {
    turn.remove();
    state.history.push(asked);
    answer();
  });
}

async function answer() {
  const turn = element("div", { className: "turn" });
  log.append(turn);
  const running = new AbortController();
  setRunning(running);
  follow();
  try {
    if (state.comparing) await compare(turn, running.signal);
    else await chat(turn, running.signal);
  } finally {
    if (state.running === running) setRunning(null);
    follow();
  }
}

// What the model thought before it answered, folded away.
function thought(text) {
  const words = element("p", { className: "text", textContent: text });
  return element("details", { className: "thought" }, element("summary", { textContent: "Thought first" }), words);
}

async function chat(turn, signal) {
  const text = element("p", { className: "text" });
  turn.className = "turn writing";
  turn.setAttribute("aria-busy", "true");
  turn.append(element("span", { className: "hidden", textContent: "Answer: " }), text);
  announce("Writing an answer.");
  const said = { content: "", id: null };
  let folded = null;
  let failure = null;
  try {
    const body = { model: state.model, messages: state.history, user: state.user, stream: true };
    for await (const event of events(await post("/v1/chat/completions", body, signal))) {
      said.id = event.id;
      const delta = event.choices[0]?.delta ?? {};
      if (delta.reasoning) {
        if (!folded) text.before((folded = thought("")));
        folded.lastChild.textContent += delta.reasoning;
      }
      said.content += delta.content ?? "";
      text.textContent = said.content;
      follow();
    }
  } catch (caught) {
    failure = caught;
  }
  turn.className = "turn";
  turn.removeAttribute("aria-busy");
  if (!turn.isConnected) return; // a new conversation was started meanwhile
  finishChat(turn, said, failure, signal.aborted);
}

function finishChat(turn, said, failure, stopped) {
  if (failure && !stopped) {
    if (!said.content) turn.replaceChildren();
    turn.append(unanswered(turn, failure));
    return;
  }
  if (stopped) turn.append(element("p", { className: "note", textContent: "Stopped." }));
  else if (!said.content) turn.append(element("p", { className: "note", textContent: "The model had nothing to say." }));
  if (said.content) state.history.push({ role: "assistant", content: said.content });
  else state.history.pop();
  if (said.id) {
    const actions = element("div", { className: "actions", role: "group", "aria-label": "Rate this answer" });
    actions.append(...thumbs(said.id), copyButton(() => said.content));
    actions.append(actions.querySelector(".said"));
    turn.append(actions);
  }
  announce(stopped ? "Stopped." : said.content);
}

// Two answers, side by side

function side(name) {
  const bones = element("div", { className: "bones" }, ...[1, 2, 3].map(() => element("i")));
  return element("section", { className: "side" }, element("h3", { textContent: `Answer ${name}` }), bones);
}

async function compare(turn, signal) {
  turn.className = "turn comparing";
  const sides = { a: side("A"), b: side("B") };
  turn.append(element("div", { className: "pair" }, sides.a, sides.b));
  announce("Writing two answers.");
  follow();
  let answers;
  try {
    const body = { model: state.model, messages: state.history, user: state.user };
    answers = await (await post("/v1/comparisons", body, signal)).json();
  } catch (failure) {
    if (!turn.isConnected) return;
    turn.className = "turn";
    if (signal.aborted) state.history.pop();
    turn.replaceChildren(
      signal.aborted ? element("p", { className: "note", textContent: "Stopped." }) : unanswered(turn, failure),
    );
    return;
  }
  if (!turn.isConnected) return;
  for (const name of ["a", "b"]) {
    const { content, reasoning } = answers[name].choices[0].message;
    const words = element("p", { className: "text", textContent: content || "(no words)" });
    sides[name].querySelector(".bones").replaceWith(...(reasoning ? [thought(reasoning), words] : [words]));
  }
  offerBallot(turn, sides, answers);
}

const CHOICES = [
  { preferred: "a", label: "A is better", key: "A" },
  { preferred: "tie", label: "Tie", key: "T" },
  { preferred: "b", label: "B is better", key: "B" },
];

function offerBallot(turn, sides, answers) {
  const line = voteLine();
  const ballot = element("div", { className: "ballot", role: "group", tabIndex: -1, "aria-label": "Which answer is better? Press A, B or T for a tie." });
  const reply = { role: "assistant", content: answers.a.choices[0].message.content || "" };
  state.history.push(reply); // the conversation goes on from A unless B is chosen
  const buttons = CHOICES.map(({ preferred, label, key }) => {
    const button = element("button", { type: "button", "aria-pressed": "false", "aria-keyshortcuts": key }, label);
    button.append(element("kbd", { textContent: key, "aria-hidden": "true" }));
    button.onclick = () => vote(preferred);
    button.dataset.preferred = preferred;
    return button;
  });
  const vote = (preferred) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.preferred === preferred));
    for (const name of ["a", "b"]) markSide(sides[name], name === preferred, preferred !== "tie" && name !== preferred);
    reply.content = answers[preferred === "b" ? "b" : "a"].choices[0].message.content || "";
    sendVote({ kind: "comparison", a: answers.a.id, b: answers.b.id, preferred }, line, "Thanks, your choice counts.");
    question.focus({ preventScroll: true });
  };
  line.textContent = "Which answer is better?";
  ballot.append(...buttons, line);
  turn.append(ballot);
  state.ballot = { vote, element: ballot };
  announce(`Answer A: ${answers.a.choices[0].message.content}. Answer B: ${answers.b.choices[0].message.content}. Which is better? Press A, B or T for a tie.`);
  if (!question.value) ballot.focus({ preventScroll: true });
  // Two long answers are read from their beginning.
  if (turn.offsetHeight > scroller.clientHeight) {
    following = false;
    turn.scrollIntoView({ block: "start" });
  }
}

function markSide(card, chosen, passed) {
  card.classList.toggle("chosen", chosen);
  card.classList.toggle("passed", passed);
  card.querySelector(".badge")?.remove();
  if (chosen) card.querySelector("h3").append(element("span", { className: "badge", textContent: "Your choice" }));
}

// The frame: composer, modes, theme

function setRunning(running) {
  state.running = running;
  byId("stop").hidden = !running;
  byId("send").hidden = Boolean(running);
  refreshSend();
}

function refreshSend() {
  byId("send").disabled = !question.value.trim();
  if (CSS.supports("field-sizing", "content")) return;
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

function submit() {
  const text = question.value.trim();
  if (!text || state.running) return;
  question.value = "";
  refreshSend();
  ask(text);
}

function startOver() {
  state.running?.abort();
  setRunning(null);
  state.history = [];
  state.ballot = null;
  log.replaceChildren();
  byId("welcome").hidden = false;
  byId("to-end").hidden = true;
  announce("New conversation.");
  question.focus();
}

function setMode(comparing) {
  state.comparing = comparing;
  byId("mode-chat").setAttribute("aria-pressed", String(!comparing));
  byId("mode-compare").setAttribute("aria-pressed", String(comparing));
  byId("welcome-chat").hidden = comparing;
  byId("welcome-compare").hidden = !comparing;
  question.focus();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  return stored("hearken.theme", () => "") || system;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
question.addEventListener("input", refreshSend);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.running) state.running.abort();
  const typing = event.target.closest?.("textarea, input") && question.value;
  if (event.ctrlKey || event.metaKey || event.altKey || typing || event.target === question) return;
  const choice = CHOICES.find(({ key }) => key === event.key.toUpperCase());
  if (choice && state.ballot?.element.isConnected) {
    event.preventDefault();
    state.ballot.vote(choice.preferred);
  }
});
byId("stop").addEventListener("click", () => {
  state.running?.abort();
  question.focus();
});
byId("new").addEventListener("click", startOver);
byId("forget").addEventListener("click", () => {
  forgetKey();
  startOver();
  enter();
});
byId("mode-chat").addEventListener("click", () => setMode(false));
byId("mode-compare").addEventListener("click", () => setMode(true));
byId("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(next);
  try {
    localStorage.setItem("hearken.theme", next);
  } catch {
    // storage can be switched off; the choice then lasts as long as the page
  }
});

for (const text of SUGGESTIONS) {
  const button = element("button", { type: "button", textContent: text, onclick: () => ask(text) });
  byId("suggestions").append(element("li", {}, button));
}
setTheme(theme());
refreshSend();

// Looks whether the service is there for us: "" when it is, else what is wrong with our key. Asks for one if need be.
async function enter() {
  const models = await fetch("/v1/models", { headers: keyHeaders() }).catch(() => null);
  if (models?.status === 401 || models?.status === 403) {
    const sent = "authorization" in keyHeaders();
    const wrong = models.status === 403 ? "This key may not chat." : sent ? "This key is not accepted." : "";
    if (byId("key-form").hidden) askForKey(wrong, enter);
    return wrong || "Enter a key first.";
  }
  const named = models?.ok ? await models.json().catch(() => null) : null;
  state.model = named?.data[0].id ?? state.model; // if it is not known, the first question will say what is wrong
  byId("brand").textContent = state.model;
  document.title = state.model;
  doneAsking();
  question.focus();
  return "";
}

await enter();
