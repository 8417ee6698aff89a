// The operator's page: looks at the releases every second, and says so when what it shows is old.

import { ApiFailure, get } from "./api.js";
import { takeNewest } from "./decisions.js";
import { byId } from "./dom.js";
import { askForKey, doneAsking, forgetKey, keyHeaders } from "./key.js";
import { showLearning } from "./learning.js";
import { showStanding } from "./standing.js";
import { closeDialog, offerActions } from "./steering.js";
import "./theme.js";
import "./trying.js";

const EVERY_MS = 1000;
const SLOWEST_MS = 5000;
const LEARNING_EVERY_MS = 10_000; // it changes with votes and steps, not from second to second
const PATIENCE_MS = 8000; // the gateway itself waits for its log for 5 seconds

let entered = false; // whether the service lets us look
let looked = null; // Date of the last look that was answered
let pauseMs = EVERY_MS;
let learningDue = 0; // when learning is looked at next, in milliseconds of performance.now()
let wake = () => {};

// Shows where releases stand now. Gives what went wrong, null when nothing did.
async function look() {
  let seen;
  try {
    seen = await (await get("/v1/releases", AbortSignal.timeout(PATIENCE_MS))).json();
  } catch (failure) {
    pauseMs = Math.min(2 * pauseMs, SLOWEST_MS);
    if (!isRefusal(failure)) tellAway(failure);
    return failure;
  }
  pauseMs = EVERY_MS;
  looked = new Date();
  byId("board").hidden = false;
  showStanding(seen);
  takeNewest(seen.history);
  offerActions(seen);
  tellTime(seen.told_at);
  if (performance.now() >= learningDue) lookAtLearning();
  return null;
}

// Releases do not wait for it: a gateway that has just started may have much to read.
async function lookAtLearning() {
  learningDue = Infinity; // one at a time
  try {
    showLearning(await (await get("/v1/learning", AbortSignal.timeout(PATIENCE_MS))).json());
  } catch {
    // the look at releases says what is wrong; what was shown stays, with the time of its votes
  }
  learningDue = performance.now() + LEARNING_EVERY_MS;
}

function tellTime(toldAt) {
  const away = "No controller has told how the release stands for 15 seconds. Until one runs nothing is decided, and what you ask for waits.";
  sayAway(toldAt === null ? away : "");
  byId("told").textContent = toldAt === null ? "" : `As the controller told it at ${timeOf(new Date(toldAt * 1000))}`;
}

function tellAway(failure) {
  const what = failure instanceof ApiFailure ? failure.message || `The gateway answered with ${failure.status}.` : "The gateway does not answer.";
  const old = looked ? ` What is shown is of ${timeOf(looked)}, and may have changed.` : "";
  byId("board").hidden = false;
  sayAway(`${what}${old} Trying again.`);
}

// An alert is read aloud whenever its text is set, so it is set once.
function sayAway(words) {
  const place = byId("away");
  if (place.textContent !== words) place.textContent = words;
  place.hidden = !words;
}

function timeOf(date) {
  return date.toLocaleTimeString([], { timeStyle: "medium" });
}

function isRefusal(failure) {
  return failure instanceof ApiFailure && (failure.status === 401 || failure.status === 403);
}

// Looks whether the service lets us look: "" when it does, else what is wrong with our key. Asks for one if need be.
async function enter() {
  const failure = await look();
  entered = !isRefusal(failure);
  if (entered) {
    doneAsking();
    wake();
    return "";
  }
  const sent = "authorization" in keyHeaders();
  const unfit = `This key may not operate the service. ${failure.message}`;
  const wrong = failure.status === 403 ? unfit : sent ? "This key is not accepted." : "";
  if (byId("key-form").hidden) askForKey(wrong, enter);
  return wrong || "Enter a key first.";
}

async function follow() {
  for (;;) {
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, pauseMs);
    });
    if (!entered || document.hidden) continue;
    if (isRefusal(await look())) lock("Your key is no longer accepted. Enter another one to go on.");
  }
}

function lock(wrong) {
  entered = false;
  closeDialog();
  askForKey(wrong, enter);
}

byId("forget").addEventListener("click", () => {
  forgetKey();
  lock("");
});
document.addEventListener("visibilitychange", () => wake());
document.addEventListener("hearken-asked", () => wake());

await enter();
follow();
