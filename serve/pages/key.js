// The API key of this tab, where the service asks for one. It is gone when the tab is closed.

const STORE = "hearken.key";
const byId = (id) => document.getElementById(id);

let key = "";
try {
  key = sessionStorage.getItem(STORE) ?? "";
} catch {
  // storage can be switched off; the key then lasts as long as the page
}

export function keyHeaders() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

function keep(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(STORE, value);
    else sessionStorage.removeItem(STORE);
  } catch {
    // as above
  }
}

// Asks for a key in place of the conversation until `enter` (called with no arguments, may be called again)
// says that the service takes it: it resolves to "" then, and else to what is wrong, in words.
export function askForKey(wrong, enter) {
  const form = byId("key-form");
  const field = byId("key");
  const say = (words) => {
    byId("key-wrong").textContent = words;
    field.setAttribute("aria-invalid", String(Boolean(words)));
  };
  show(true);
  field.value = "";
  say(wrong);
  field.focus();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const typed = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(typed)) {
      say(typed ? "A key has no spaces and no special characters." : "Enter a key first.");
      field.focus();
      return;
    }
    keep(typed);
    byId("key-use").disabled = true;
    const refused = await enter();
    byId("key-use").disabled = false;
    if (!refused) return;
    keep("");
    say(refused);
    field.select();
  };
}

export function doneAsking() {
  show(false);
  byId("key").value = "";
}

export function forgetKey() {
  keep("");
}

function show(asking) {
  byId("key-form").hidden = !asking;
  byId("scroller").classList.toggle("locked", asking);
  document.querySelector("footer").hidden = asking;
  byId("forget").hidden = asking || !key;
}
