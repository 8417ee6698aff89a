// Light or dark: as the system has it, until a visitor chooses. The choice holds for all pages of the service.

import { byId } from "./dom.js";

const STORE = "hearken.theme";
const root = document.documentElement;

function chosen() {
  try {
    return localStorage.getItem(STORE);
  } catch {
    return null; // storage can be switched off
  }
}

function choose(theme) {
  root.dataset.theme = theme;
  try {
    localStorage.setItem(STORE, theme);
  } catch {
    // the choice then lasts as long as the page
  }
}

root.dataset.theme = chosen() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
byId("theme").addEventListener("click", () => choose(root.dataset.theme === "dark" ? "light" : "dark"));
