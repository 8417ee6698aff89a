// Markdown of a model as elements: a safe subset, and no HTML. What is not known stays the text that it is.
//
// An answer is drawn anew with every piece that comes. Blocks that are as they were are left alone, so nothing that
// stands already flickers or loses its selection.

import { element } from "./dom.js";

const LONGEST_INLINE = 20_000; // characters of one block; marks in a longer one are left as they are
const DEEPEST = 6; // quotes and lists in one another

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DASHES = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const drawn = new WeakMap(); // the lines that an element was drawn from

// Makes `container` show the text.
export function show(container, text) {
  const blocks = split(text.replace(/\r\n?/g, "\n").split("\n"));
  blocks.forEach((block, i) => {
    const source = block.kind + block.lines.join("\n");
    const there = container.children[i];
    if (there && drawn.get(there) === source) return;
    const made = draw(block, 0);
    drawn.set(made, source);
    if (there) there.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > blocks.length) container.lastChild.remove();
}

// Lines as blocks: {kind, lines}.
function split(lines) {
  const blocks = [];
  let i = 0;
  const take = (kind, goesOn) => {
    const from = i++;
    while (i < lines.length && goesOn(lines[i], i)) i++;
    blocks.push({ kind, lines: lines.slice(from, i) });
  };
  while (i < lines.length) {
    const line = lines[i];
    if (!line.trim()) i++;
    else if (FENCE.test(line)) takeFence();
    else if (HEADING.test(line)) take("heading", () => false);
    else if (RULE.test(line)) take("rule", () => false);
    else if (QUOTE.test(line)) take("quote", (next) => QUOTE.test(next));
    else if (ITEM.test(line)) take("list", (next, at) => inList(lines, at));
    else if (isTable(lines, i)) take("table", (next) => next.includes("|"));
    else take("text", (next, at) => next.trim() && !begins(lines, at));
  }
  return blocks;

  function takeFence() {
    const mark = FENCE.exec(lines[i])[1];
    const ends = (line) => line.trim().startsWith(mark) && /^(`+|~+)$/.test(line.trim());
    let closed = false;
    take("code", (line) => {
      if (closed) return false;
      closed = ends(line);
      return true;
    });
  }
}

// Whether a block other than text begins at a line.
function begins(lines, at) {
  const line = lines[at];
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((mark) => mark.test(line)) || isTable(lines, at);
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("|") && DASHES.test(lines[at + 1]);
}

// A list goes on with items and what is indented, also after an empty line, and with the rest of an item's text.
function inList(lines, at) {
  const line = lines[at];
  if (ITEM.test(line) || /^\s{2,}\S/.test(line)) return true;
  if (line.trim()) return lines[at - 1].trim() !== "" && !begins(lines, at);
  return at + 1 < lines.length && (ITEM.test(lines[at + 1]) || /^\s{2,}\S/.test(lines[at + 1]));
}

function draw({ kind, lines }, depth) {
  if (kind === "code") return drawCode(lines);
  if (kind === "rule") return element("hr");
  if (kind === "heading") {
    const [, marks, words] = HEADING.exec(lines[0]);
    return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(words)); // the page has an h1 and h2 of its own
  }
  if (kind === "table") return drawTable(lines);
  if (depth < DEEPEST) {
    if (kind === "quote") return within(element("blockquote"), lines.map((line) => line.replace(QUOTE, "")), depth);
    if (kind === "list") return drawList(lines, depth);
  }
  return element("p", {}, ...inline(lines.join("\n")));
}

function within(parent, lines, depth) {
  parent.append(...split(lines).map((block) => draw(block, depth + 1)));
  return parent;
}

function drawCode(lines) {
  const [, mark, language] = FENCE.exec(lines[0]);
  const last = lines.length > 1 ? lines.at(-1).trim() : "";
  const closed = last.startsWith(mark) && /^(`+|~+)$/.test(last);
  const words = lines.slice(1, closed ? -1 : undefined).join("\n");
  return element("pre", language ? { title: language } : {}, element("code", { textContent: words }));
}

function drawList(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length + 1) items.push([found[3]]);
    else items.at(-1).push(line.replace(new RegExp(`^\\s{0,${indent.length + mark.length + 1}}`), ""));
  }
  const list = element(ordered ? "ol" : "ul", ordered ? { start: parseInt(mark, 10) } : {});
  for (const item of items) list.append(drawItem(item, depth));
  return list;
}

// An item that is a single text stands without a paragraph around it.
function drawItem(lines, depth) {
  const item = within(element("li"), lines, depth);
  if (item.firstElementChild?.tagName === "P") item.firstElementChild.replaceWith(...item.firstElementChild.childNodes);
  return item;
}

function drawTable(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (tag, line) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inline(cell))));
  const body = element("tbody", {}, ...lines.slice(2).map((line) => row("td", line)));
  return element("table", {}, element("thead", {}, row("th", lines[0])), body);
}

// In order: an escaped mark; code; strong; emphasis by stars, and by lines around words; struck out; a link or an
// image, which is shown as a link, for nothing is fetched; an address.
const MARKS = new RegExp(
  [
    /\\([\\`*_{}[\]()#+\-.!~|>])/,
    /(`+)([^`]|[^`][\s\S]*?[^`])\2(?!`)/,
    /(?:\*\*(?=\S)([\s\S]*?\S)\*\*(?!\*)|(?<!\w)__(?=\S)([\s\S]*?\S)__(?!\w))/,
    /(?:\*(?=[^\s*])([^*]*?[^\s*])\*|(?<!\w)_(?=[^\s_])([^_]*?[^\s_])_(?!\w))/,
    /~~(?=\S)([\s\S]*?\S)~~/,
    /!?\[([^\][]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/,
    /(https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}])/,
  ].map((mark) => mark.source).join("|"),
  "g",
);

// The text of one block as nodes.
function inline(text) {
  if (text.length > LONGEST_INLINE) return [text];
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(MARKS)) {
    nodes.push(text.slice(from, found.index), marked(found));
    from = found.index + found[0].length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

function marked(found) {
  const [whole, escaped, , code, strong, strongToo, soft, softToo, struck, words, target, address] = found;
  if (escaped) return escaped;
  if (code) return element("code", { textContent: code.trim() || code });
  if (strong || strongToo) return element("strong", {}, ...inline(strong || strongToo));
  if (soft || softToo) return element("em", {}, ...inline(soft || softToo));
  if (struck) return element("del", {}, ...inline(struck));
  if (address) return link(address, [address]) ?? whole;
  return link(target, words ? inline(words) : [target]) ?? whole;
}

// A link that a press may follow; null for an address that might do anything else.
function link(target, nodes) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...nodes);
}
