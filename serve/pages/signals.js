// What people do with answers, told in batches when the page is left or put aside.
//
// Every name that may happen to an answer is told: true where it happened, else false, for that tells something, too.
// An answer is {url, id, token}, maybe with a choice: where to tell it, and the token that came with the answer.

const MOST = 20; // signals of one batch: a token is good for so many votes a minute

const due = new Map(); // a place, which is one name of one answer -> {url, signal}, not sent yet
const happened = new Set(); // places: that nothing happened later does not take it back

// An answer is before the reader, and none of this was done with it so far.
export function shown(answer, names) {
  for (const name of names) put(answer, name, false);
}

export function did(answer, name) {
  put(answer, name, true);
}

function put({ url, id, choice = 0, token }, name, value) {
  const place = `${id} ${choice} ${name}`;
  if (!token || happened.has(place)) return;
  if (value) happened.add(place);
  due.set(place, { url, signal: { kind: "signal", name, completion_id: id, choice, value, token } });
}

// Sends what is due. What the browser does not take, because too much is on its way already, stays due.
export function flush() {
  for (const url of new Set([...due.values()].map((each) => each.url))) {
    const places = [...due.keys()].filter((place) => due.get(place).url === url);
    for (let i = 0; i < places.length; i += MOST) {
      const part = places.slice(i, i + MOST);
      const batch = part.map((place) => due.get(place).signal);
      if (!navigator.sendBeacon(url, JSON.stringify(batch))) break;
      for (const place of part) due.delete(place);
    }
  }
}

addEventListener("pagehide", flush);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") flush();
});
