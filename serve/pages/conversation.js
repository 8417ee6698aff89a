// The conversation, kept in its tab over reloads. A tab that is closed forgets it, as it forgets its key.
//
// A turn is a question and what was answered: {question, id, token, content, reasoning, stopped, vote}, or for two
// answers {question, answers: {a: {id, content, reasoning}, b: ..}, vote}. vote: {value, id} of the vote in force, or
// null; token: with which it can be told what is done with the answer; before: {id, vote} of the answer in whose
// place it came, and of the choice between the two.

const STORE = "hearken.conversation";

let turns = [];

// What the API is told of the conversation so far.
export function messages() {
  return turns.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: reply(turn) },
  ]);
}

// The conversation goes on from A unless B was chosen.
function reply(turn) {
  if (!turn.answers) return turn.content;
  return turn.answers[turn.vote?.value === "b" ? "b" : "a"].content;
}

export function add(turn) {
  turns.push(turn);
  keep();
}

export function drop(turn) {
  turns = turns.filter((each) => each !== turn);
  keep();
}

export function count() {
  return turns.length;
}

// Only the first turns stay.
export function cut(first) {
  turns = turns.slice(0, first);
  keep();
}

export function clear() {
  turns = [];
  keep();
}

// Called after a turn was changed; `more`: a turn that is not finished while the page is left.
export function keep(more) {
  const all = more ? [...turns, more] : turns;
  try {
    if (all.length) sessionStorage.setItem(STORE, JSON.stringify(all));
    else sessionStorage.removeItem(STORE);
  } catch {
    // Storage can be switched off or full; the conversation then lasts as long as the page.
  }
}

// The turns that were kept.
export function load() {
  try {
    turns = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    turns = [];
  }
  return turns;
}
