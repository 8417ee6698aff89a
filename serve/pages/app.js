// The chat page: asks, shows answers while they come, lets people judge them.

import { events, inWords, post, whenKeyEnds } from "./api.js";
import { add, clear, count, cut, drop, keep, load, messages } from "./conversation.js";
import { copyButton } from "./copying.js";
import { correctionForm, whyForm } from "./details.js";
import { announce, byId, element, icon, iconButton, randomName } from "./dom.js";
import { askForKey, doneAsking, forgetKey, keyHeaders } from "./key.js";
import { show } from "./markdown.js";
import { askConsent, consent, offerMine } from "./mine.js";
import { offerPreferences } from "./preferences.js";
import { did, shown } from "./signals.js";
import "./theme.js";
import { thanBefore, thumbs, Vote } from "./votes.js";

const log = byId("log");
const question = byId("question");
const scroller = byId("scroller");

const state = {
  model: "hearken",
  user: storedUser(),
  comparing: false,
  running: null, // AbortController of the answer that is being written
  unfinished: null, // the turn that is being written
  ballot: null, // the ballot that keys vote on
  editing: null, // the question that the next message takes the place of: {turn, place, text}
};
const MAY_HAPPEN = ["copied", "regenerated"];

function storedUser() {
  const made = "browser-" + randomName();
  try {
    const known = localStorage.getItem("hearken.user");
    if (!known) localStorage.setItem("hearken.user", made);
    return known || made;
  } catch {
    return made; // storage can be switched off
  }
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

function trouble(failure, retry) {
  const fresh = failure.code === "context_length_exceeded";
  const button = element("button", { type: "button", onclick: fresh ? startOver : retry });
  button.textContent = fresh ? "New conversation" : "Try again";
  const words = inWords(failure);
  announce(words);
  return element("div", { className: "trouble" }, icon("alert"), element("p", { textContent: words }), button);
}

// One question, answered. A question without an answer is no part of the conversation.

// place: how many turns come before it.
function showQuestion(text, place) {
  byId("welcome").hidden = true;
  const bubble = element("p", { className: "text mine", textContent: text });
  const turn = element("div", { className: "turn question" }, element("span", { className: "hidden", textContent: "You said: " }), bubble);
  turn.prepend(iconButton("edit", "Change this message", () => edit({ turn, place, text })));
  log.append(turn);
}

// Changing a question: what was said from there on gives way to it once it is sent.

function edit(chosen) {
  if (state.running) return;
  state.editing = chosen;
  byId("editing").hidden = !chosen;
  question.value = chosen?.text ?? "";
  refreshSend();
  question.focus();
}

function replaceFrom({ turn, place }) {
  while (turn.nextSibling) turn.nextSibling.remove();
  turn.remove();
  state.ballot = null;
  cut(place);
}

function ask(text) {
  if (state.editing) replaceFrom(state.editing);
  state.editing = null;
  byId("editing").hidden = true;
  for (const button of log.querySelectorAll(".trouble button, .again-answer")) button.remove(); // too late for those
  showQuestion(text, count());
  following = true;
  answer(text);
}

// before: the turn in whose place the answer comes, if any.
async function answer(asked, before) {
  const place = element("div", { className: "turn" });
  log.append(place);
  const running = new AbortController();
  setRunning(running);
  follow();
  try {
    if (state.comparing) await compare(place, asked, running.signal);
    else await chat(place, asked, running.signal, before);
  } finally {
    if (state.running === running) setRunning(null);
    follow();
  }
}

function request(asked) {
  return { model: state.model, messages: [...messages(), { role: "user", content: asked }], user: state.user, ...consent() };
}

function unanswered(place, asked, failure, before) {
  return trouble(failure, () => {
    place.remove();
    answer(asked, before);
  });
}

function note(words) {
  return element("p", { className: "note", textContent: words });
}

// What the model thought before it answered, folded away.
function thought(text) {
  const words = element("p", { className: "text", textContent: text });
  return element("details", { className: "thought" }, element("summary", { textContent: "Thought first" }), words);
}

// An answer's text as it grows.
function writing(place) {
  const text = element("div", { className: "text" });
  place.append(element("span", { className: "hidden", textContent: "Answer: " }), text);
  let folded = null;
  return ({ content, reasoning }) => {
    if (reasoning) {
      if (!folded) text.before((folded = thought("")));
      folded.lastChild.textContent = reasoning;
    }
    show(text, content);
  };
}

async function chat(place, asked, signal, before) {
  const turn = { question: asked, id: null, token: null, content: "", reasoning: "", stopped: false, vote: null };
  if (before) turn.before = { id: before.id, vote: null };
  const write = writing(place);
  place.className = "turn writing";
  place.setAttribute("aria-busy", "true");
  announce("Writing an answer.");
  state.unfinished = turn;
  let failure = null;
  try {
    for await (const event of events(await post("/v1/chat/completions", { ...request(asked), stream: true }, signal))) {
      turn.id = event.id;
      turn.token ??= event.hearken?.feedback_token ?? null;
      const delta = event.choices[0]?.delta ?? {};
      turn.reasoning += delta.reasoning ?? "";
      turn.content += delta.content ?? "";
      write(turn);
      follow();
    }
  } catch (caught) {
    failure = caught;
  }
  if (state.unfinished === turn) state.unfinished = null;
  place.className = "turn";
  place.removeAttribute("aria-busy");
  if (!place.isConnected) return; // a new conversation was started meanwhile
  turn.stopped = signal.aborted;
  if (failure && !turn.stopped) {
    if (!turn.content) place.replaceChildren();
    place.append(unanswered(place, asked, failure, before));
    return;
  }
  if (turn.content) {
    add(turn);
    shown(about(turn), MAY_HAPPEN);
  }
  finishChat(place, turn);
  announce(turn.stopped ? "Stopped." : turn.content);
}

function finishChat(place, turn) {
  if (turn.stopped) place.append(note("Stopped."));
  else if (!turn.content) place.append(note("The model had nothing to say."));
  if (!turn.id) return;
  const { buttons, vote } = thumbs(turn, state.user, (inForce) => {
    turn.vote = inForce;
    keep();
    if (inForce?.value === "down") why.ask();
    else why.form.hidden = true;
  });
  const why = whyForm(vote, follow);
  const actions = element("div", { className: "actions", role: "group", "aria-label": "Rate this answer" });
  const copied = () => did(about(turn), "copied");
  place.addEventListener("copy", copied); // a part of it, marked by hand
  const again = iconButton("again", "Answer again", () => answerAgain(place, turn));
  again.classList.add("again-answer");
  const correct = iconButton("edit", "Suggest a better answer", () => correction.open());
  const correction = correctionForm(turn, state.user, (sent) => {
    if (sent) vote.line.textContent = "Thank you for the better answer.";
    correct.focus();
  });
  correct.hidden = !turn.content;
  actions.append(...buttons, copyButton(() => turn.content, copied), correct, again, vote.line, vote.receipt);
  place.append(actions, why.form, correction.form);
  if (turn.before && turn.content) place.append(thanBefore(turn, state.user, keepBefore));

  function keepBefore(inForce) {
    turn.before.vote = inForce;
    keep();
  }
}

// The answer of a turn, for telling what is done with it.
function about(turn) {
  return { url: "/v1/feedback", id: turn.id, token: turn.token };
}

// Another answer in the place of the newest one.
function answerAgain(place, turn) {
  if (state.running) return;
  did(about(turn), "regenerated");
  drop(turn);
  place.remove();
  following = true;
  answer(turn.question, turn.content ? turn : undefined);
}

// Two answers, side by side

function side(name) {
  const bones = element("div", { className: "bones" }, ...[1, 2, 3].map(() => element("i")));
  return element("section", { className: "side" }, element("h3", { textContent: `Answer ${name}` }), bones);
}

function sides(place) {
  const both = { a: side("A"), b: side("B") };
  place.className = "turn comparing";
  place.append(element("div", { className: "pair" }, both.a, both.b));
  return both;
}

async function compare(place, asked, signal) {
  const cards = sides(place);
  announce("Writing two answers.");
  follow();
  const answers = { a: null, b: null };
  const failure = await writeBoth(cards, answers, asked, signal);
  if (!place.isConnected) return;
  if (failure) {
    place.className = "turn";
    place.replaceChildren(signal.aborted ? note("Stopped.") : unanswered(place, asked, failure));
    return;
  }
  const turn = { question: asked, answers, vote: null };
  add(turn);
  const ballot = offerBallot(place, cards, turn);
  announce(`Answer A: ${turn.answers.a.content}. Answer B: ${turn.answers.b.content}. Which is better? ${CHOICE_KEYS}`);
  if (!question.value) ballot.focus({ preventScroll: true });
  // Two long answers are read from their beginning.
  if (place.offsetHeight > scroller.clientHeight) {
    following = false;
    place.scrollIntoView({ block: "start" });
  }
}

// Both answers as they are written. Gives what went wrong, null when nothing did.
async function writeBoth(cards, answers, asked, signal) {
  try {
    for await (const event of events(await post("/v1/comparisons", { ...request(asked), stream: true }, signal))) {
      if (!event.side) for (const name of ["a", "b"]) answers[name] = { id: event[name], content: "", reasoning: "" };
      const delta = event.chunk?.choices[0]?.delta;
      if (!delta) continue;
      answers[event.side].content += delta.content ?? "";
      answers[event.side].reasoning += delta.reasoning ?? "";
      showSide(cards[event.side], answers[event.side]);
      follow();
    }
  } catch (failure) {
    return failure;
  }
  return null;
}

const CHOICES = [
  { preferred: "a", label: "A is better", key: "A" },
  { preferred: "tie", label: "Tie", key: "T" },
  { preferred: "b", label: "B is better", key: "B" },
  { preferred: "both_bad", label: "Both are bad", key: "N" },
];
const CHOICE_KEYS = "Press A, B, T for a tie, or N when both are bad.";

function showSide(card, { content, reasoning }) {
  const words = element("div", { className: "text" });
  show(words, content);
  const open = card.querySelector("details")?.open ?? false;
  const thoughts = reasoning ? [thought(reasoning)] : [];
  for (const each of thoughts) each.open = open;
  card.replaceChildren(card.querySelector("h3"), ...thoughts, words);
}

function offerBallot(place, cards, turn) {
  for (const name of ["a", "b"]) showSide(cards[name], { ...turn.answers[name], content: turn.answers[name].content || "(no words)" });
  const ballot = element("div", { className: "ballot", role: "group", tabIndex: -1, "aria-label": `Which answer is better? ${CHOICE_KEYS}` });
  const mark = (chosen) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.preferred === chosen));
    for (const name of ["a", "b"]) markSide(cards[name], name === chosen, chosen in cards && name !== chosen);
  };
  const { a, b } = turn.answers;
  const vote = new Vote({
    user: state.user,
    body: (preferred) => ({ kind: "comparison", a: a.id, b: b.id, preferred }),
    saved: () => "Thanks, your choice counts.",
    inForce: turn.vote,
    changed: (inForce) => {
      turn.vote = inForce;
      keep();
      mark(inForce?.value);
      follow();
    },
  });
  const press = (preferred) => {
    vote.press(preferred);
    question.focus({ preventScroll: true });
  };
  const buttons = CHOICES.map(({ preferred, label, key }) => {
    const button = element("button", { type: "button", "aria-keyshortcuts": key, onclick: () => press(preferred) }, label);
    button.append(element("kbd", { textContent: key, "aria-hidden": "true" }));
    button.dataset.preferred = preferred;
    return button;
  });
  mark(turn.vote?.value);
  if (!turn.vote) vote.line.textContent = "Which answer is better?";
  ballot.append(...buttons, vote.line, vote.receipt);
  place.append(ballot);
  state.ballot = { vote: press, element: ballot };
  return ballot;
}

function markSide(card, chosen, passed) {
  card.classList.toggle("chosen", chosen);
  card.classList.toggle("passed", passed);
  card.querySelector(".badge")?.remove();
  if (chosen) card.querySelector("h3").append(element("span", { className: "badge", textContent: "Your choice" }));
}

// What was said before the page was loaded anew.
function restore() {
  for (const [before, turn] of load().entries()) {
    for (const button of log.querySelectorAll(".again-answer")) button.remove();
    showQuestion(turn.question, before);
    const place = element("div", { className: "turn" });
    log.append(place);
    if (turn.answers) offerBallot(place, sides(place), turn);
    else {
      writing(place)(turn);
      finishChat(place, turn);
    }
  }
  follow();
}

// An answer that is being written is kept as far as it got. Its stream may break off before the page is hidden.
for (const leaving of ["beforeunload", "pagehide"]) {
  addEventListener(leaving, () => {
    if (state.unfinished?.content) keep({ ...state.unfinished, stopped: true });
  });
}

// The frame: composer and modes

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
  state.unfinished = null;
  state.ballot = null;
  if (state.editing) edit(null);
  clear();
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
  else if (event.key === "Escape" && state.editing) edit(null);
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
byId("editing-cancel").addEventListener("click", () => edit(null));
byId("new").addEventListener("click", startOver);
byId("forget").addEventListener("click", () => {
  forgetKey();
  startOver();
  enter();
});
byId("mode-chat").addEventListener("click", () => setMode(false));
byId("mode-compare").addEventListener("click", () => setMode(true));

whenKeyEnds(() => askForKey("Your key is no longer accepted. Enter another one to go on.", enter));
refreshSend();
restore();
offerPreferences(state.user);
offerMine(state.user, () => {
  clear();
  try {
    localStorage.removeItem("hearken.user"); // whoever comes now is somebody else
  } catch {
    // storage can be switched off
  }
  location.reload();
});

// Questions that suit the model, as whoever runs the service set them.
function suggest(questions) {
  const buttons = questions.map((text) => element("button", { type: "button", textContent: text, onclick: () => ask(text) }));
  byId("suggestions").replaceChildren(...buttons.map((button) => element("li", {}, button)));
}

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
  suggest(named?.data[0].suggestions ?? []);
  askConsent(named?.data[0].consent === "asked");
  doneAsking();
  question.focus();
  return "";
}

await enter();
