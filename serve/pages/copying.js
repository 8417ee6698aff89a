// Copying a text. Browsers have a clipboard for pages with TLS and for localhost only; others still know the old way.

import { announce, element, icon, iconButton } from "./dom.js";

const SHOWN_MS = 1500;

async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // It may be forbidden; the old way may not be.
    }
  }
  return copyBySelection(text);
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const field = element("textarea", { className: "hidden", value: text, readOnly: true });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  return copied;
}

// read: gives the text when the button is pressed. done: called when it was copied.
export function copyButton(read, done) {
  const button = iconButton("copy", "Copy", async () => {
    const copied = await copy(read());
    if (copied) done();
    button.replaceChildren(icon(copied ? "check" : "alert"));
    button.title = copied ? "Copied" : "This could not be copied";
    announce(button.title + ".");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.title = "Copy";
    }, SHOWN_MS);
  });
  return button;
}
