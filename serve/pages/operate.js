// The operator's page: watches the releases, and says so when what it shows is old.

import { ApiFailure, events, get } from "./api.js";
import { takeNewest } from "./decisions.js";
import { byId } from "./dom.js";
import { askForKey, doneAsking, forgetKey, keyHeaders } from "./key.js";
import { showLearning } from "./learning.js";
import { showStanding } from "./standing.js";
import { closeDialog, offerActions } from "./steering.js";
import "./theme.js";
import "./trying.js";

const RETRY_MS = 1000;
const SLOWEST_MS = 5000;
const PATIENCE_MS = 8000; // something comes every second; the gateway itself waits for its log for 5

let entered = false; // whether the service lets us look
let looked = null; // Date of the newest that we were told
let watched = null; // AbortController of the stream
let pauseMs = RETRY_MS; // before the next stream
let wake = () => {};

// Shows where releases stand: an answer of GET /v1/releases, or an event of the stream.
function showReleases(seen) {
  pauseMs = RETRY_MS;
  looked = new Date();
  byId("board").hidden = false;
  showStanding(seen);
  takeNewest(seen.history);
  offerActions(seen);
  tellTime(seen.told_at);
}

// Looks once. Gives what went wrong, null when nothing did.
async function look() {
  try {
    showReleases(await (await get("/v1/releases", AbortSignal.timeout(PATIENCE_MS))).json());
    return null;
  } catch (failure) {
    if (!isRefusal(failure)) tellAway(failure);
    return failure;
  }
}

// Shows what the service tells until it tells no more. Throws what went wrong.
async function watch() {
  const stream = (watched = new AbortController());
  let patience;
  const heard = () => {
    clearTimeout(patience);
    patience = setTimeout(() => stream.abort(), PATIENCE_MS);
  };
  heard();
  try {
    for await (const told of events(await get("/v1/releases/stream", stream.signal))) {
      heard();
      if (told.object === "release") showReleases(told);
      else showLearning(told);
    }
  } finally {
    clearTimeout(patience);
    stream.abort();
  }
}

function tellTime(toldAt) {
  const away = "No controller has told how the release stands for 15 seconds. Until one runs nothing is decided, and what you ask for waits.";
  sayAway(toldAt === null ? away : "");
  byId("told").textContent = toldAt === null ? "" : `As the controller told it at ${timeOf(new Date(toldAt * 1000))}`;
}

function tellAway(failure) {
  const said = failure instanceof ApiFailure && (failure.message || (failure.status && `The gateway answered with ${failure.status}.`));
  const what = said || "The gateway does not answer.";
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

// Watches for as long as the page is seen.
async function follow() {
  for (;;) {
    try {
      if (entered && !document.hidden) await watch();
    } catch (failure) {
      if (isRefusal(failure)) lock("Your key is no longer accepted. Enter another one to go on.");
      else if (entered && !document.hidden) tellAway(failure);
      pauseMs = Math.min(2 * pauseMs, SLOWEST_MS);
    }
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, pauseMs);
    });
  }
}

function lock(wrong) {
  entered = false;
  watched?.abort();
  closeDialog();
  askForKey(wrong, enter);
}

byId("forget").addEventListener("click", () => {
  forgetKey();
  lock("");
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) watched?.abort();
  else wake();
});

addEventListener("offline", () => watched?.abort()); // an open stream would only fall silent

await enter();
follow();
