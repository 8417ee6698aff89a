// What this person asked for in every answer: shown, added to, taken out of, forgotten.

import { get, inWords, put, remove } from "./api.js";
import { announce, byId, element, iconButton } from "./dom.js";

const panel = byId("preferences");
const field = byId("preference");

// user: by the name that the chats give.
export function offerPreferences(user) {
  const path = `/v1/users/${encodeURIComponent(user)}/preferences`;
  byId("preferences-open").addEventListener("click", async () => {
    panel.showModal();
    field.focus();
    await attempt(() => get(path));
  });
  byId("preferences-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const wish = field.value.trim();
    if (!wish) return;
    if (await attempt(() => change(path, (entries) => [...entries, wish]), "Remembered. It holds from the next answer on.")) field.value = "";
    field.focus();
  });
  byId("preferences-erase").addEventListener("click", () => attempt(() => remove(path), "All forgotten."));
  byId("preferences-close").addEventListener("click", () => panel.close());
  // Keys that vote or stop an answer are not meant while something is written here.
  panel.addEventListener("keydown", (event) => event.stopPropagation());

  // Does something with the list and shows what it is then; whether that went well.
  async function attempt(act, done = "") {
    try {
      show(await (await act()).json());
    } catch (failure) {
      say(inWords(failure), true);
      return false;
    }
    say(done, false);
    return true;
  }

  function show({ entries, max_entries: most, max_chars: chars }) {
    field.maxLength = chars;
    byId("preferences-none").hidden = entries.length > 0;
    byId("preferences-erase").hidden = entries.length === 0;
    byId("preferences-form").hidden = entries.length >= most;
    byId("preferences-list").replaceChildren(...entries.map(entryOf));
  }

  function entryOf(entry) {
    const without = () => change(path, (entries) => entries.filter((each) => each !== entry));
    const button = iconButton("remove", `Forget: ${entry}`, () => attempt(without, "Forgotten."));
    return element("li", {}, element("span", { textContent: entry }), button);
  }
}

// The list may have been changed in another tab since it was shown. Whoever presses the button consents.
async function change(path, edit) {
  const { entries } = await (await get(path)).json();
  return put(path, { entries: edit(entries), consent: true });
}

function say(words, failed) {
  const line = byId("preferences-said");
  line.textContent = words;
  line.className = failed ? "said failed" : "said";
  if (words) announce(words);
}
