"use strict";

const byId = (name) => document.getElementById(name);
const content = JSON.parse(byId("content").textContent);
const { items } = content;
const KEEP = "keep", MOVE = "move", SET_ASIDE = "set-aside";
const EVERY = "all";
const STORED = "tlkit-review-" + content.id;

let decisions = new Map(); // number of the image -> [decision, new label]
let done = []; // number of the image and its earlier decision or null, to undo
let shown = items.map((_, number) => number);
let current = shown.length ? 0 : -1;
let isSaved = true; // whether all decisions are in a downloaded file

// names of files and classes are untrusted: codes for invisible characters, and those that move others
function visible(text) {
  return text.replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (letter) => "\\u" + letter.codePointAt(0).toString(16).padStart(4, "0"));
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = visible(text);
  if (className) made.className = className;
  return made;
}

function warn(text) {
  byId("warning").textContent = text;
  byId("warning").hidden = text === "";
}

/* The decisions stay in the browser's storage, if it has one for this page. */

function store() {
  try {
    localStorage.setItem(STORED, JSON.stringify({ decisions: [...decisions], done, isSaved }));
  } catch (reason) {
    warn("This browser does not store the decisions (" + reason.message + "): download them before closing the page.");
  }
}

function restore() {
  try {
    const text = localStorage.getItem(STORED);
    if (text === null) return;
    const stored = JSON.parse(text);
    decisions = new Map(stored.decisions);
    done = stored.done;
    isSaved = stored.isSaved;
  } catch (reason) {
    warn("Earlier decisions on this page cannot be read from the browser's storage (" + reason.message + ").");
  }
}

/* Decisions */

const number = () => shown[current];

function decide(decision, newLabel) {
  const one = number();
  if (one === undefined) return;
  if (decision === KEEP && items[one].label === "") return; // there is no label to keep
  if (decision === MOVE && newLabel === items[one].label) {
    decision = KEEP;
    newLabel = "";
  }
  done.push([one, decisions.get(one) ?? null]);
  decisions.set(one, [decision, newLabel]);
  isSaved = false;
  store();
  goToUndecided();
}

function undo() {
  const last = done.pop();
  if (last === undefined) return;
  const [one, earlier] = last;
  if (earlier === null) decisions.delete(one);
  else decisions.set(one, earlier);
  isSaved = false;
  store();
  if (!shown.includes(one)) {
    byId("kind").value = EVERY;
    choose(EVERY);
  }
  current = shown.indexOf(one);
  draw();
}

function goToUndecided() {
  const length = shown.length;
  for (let step = 1; step <= length; step++) {
    const place = (current + step) % length;
    if (!decisions.has(shown[place])) {
      current = place;
      break;
    }
  }
  draw();
}

function go(step) {
  if (shown.length) current = (current + step + shown.length) % shown.length;
  draw();
}

function choose(kind) {
  shown = items.flatMap((item, one) => kind === EVERY || item.kinds.includes(kind) ? [one] : []);
  const undecided = shown.findIndex((one) => !decisions.has(one));
  current = shown.length ? Math.max(undecided, 0) : -1;
  drawGrid();
}

function textOf(decision) {
  if (decision === undefined) return "";
  const [what, newLabel] = decision;
  return what === MOVE ? "moved to " + newLabel : what === KEEP ? "kept" : "set aside";
}

/* The table: cells that a spreadsheet would take for a formula start with an apostrophe. */

const formula = new RegExp("^(?:" + content.formula + ")", "u");

function cell(text) {
  const safe = formula.test(text) ? "'" + text : text;
  return /[",\r\n]/.test(safe) || safe !== safe.trim() ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}

function table() {
  const rows = [content.columns, ...content.earlier];
  for (const [one, [decision, newLabel]] of [...decisions].sort((a, b) => a[0] - b[0])) {
    const { file, digest, label } = items[one];
    rows.push([file, digest, label, decision, newLabel]);
  }
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "decisions.csv";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  isSaved = true;
  store();
  draw();
}

/* The page */

function figure(url, caption) {
  const made = element("figure");
  const image = element("img");
  image.src = url;
  image.alt = visible(caption);
  made.append(image, element("figcaption", caption));
  return made;
}

function classButton(name, position, probability, item) {
  const button = element("button");
  button.type = "button";
  if (name === item.suggested) button.className = "suggested";
  const key = position < 9 ? element("kbd", String(position + 1)) : element("span", "");
  const value = probability === undefined ? "" : (100 * probability).toFixed(1) + "\u00a0%";
  button.append(key, element("span", name), element("span", value, "probability"));
  button.style.setProperty("--probability", 100 * (probability ?? 0) + "%");
  button.addEventListener("click", () => decide(MOVE, name));
  return button;
}

function offered(item) {
  const named = item.probabilities.map(([name]) => name);
  return [...named, ...content.classes.filter((name) => !named.includes(name))].slice(0, 9);
}

function drawCard() {
  const one = number();
  byId("card").hidden = one === undefined;
  byId("none").hidden = one !== undefined;
  if (one === undefined) return;
  const item = items[one];
  const probabilities = new Map(item.probabilities);
  byId("pictures").replaceChildren(
    figure(item.image, item.file),
    ...item.others.map((other) => figure(other.image, other.label + ": " + other.file)));
  byId("place").textContent = "Image " + (current + 1) + " of " + shown.length;
  byId("label").textContent = item.label === "" ? "No label" : "Label: " + visible(item.label);
  byId("reasons").replaceChildren(...item.reasons.map((reason) => element("li", reason)));
  const decision = decisions.get(one);
  byId("decision").textContent = visible(textOf(decision));
  byId("decision").className = decision ? decision[0] + "-text" : "";
  const names = offered(item);
  byId("classes").replaceChildren(...names.map(
    (name, position) => classButton(name, position, probabilities.get(name), item)));
  byId("more").hidden = content.classes.length <= names.length;
  byId("all").value = "";
  byId("keep").disabled = item.label === "";
}

function drawGrid() {
  byId("grid").replaceChildren(...shown.map((one, place) => {
    const button = element("button");
    button.type = "button";
    const image = element("img");
    image.src = items[one].image;
    image.alt = visible(items[one].file);
    image.loading = "lazy";
    button.append(image, element("span"));
    button.addEventListener("click", () => { current = place; draw(); scrollTo({ top: 0 }); });
    return button;
  }));
  draw();
}

function draw() {
  [...byId("grid").children].forEach((button, place) => {
    const item = items[shown[place]];
    const decision = decisions.get(shown[place]);
    button.className = (decision ? decision[0] : "") + (place === current ? " current" : "");
    button.lastChild.textContent = visible(textOf(decision) || item.label || "no label");
  });
  const decided = shown.filter((one) => decisions.has(one)).length;
  byId("progress").max = Math.max(shown.length, 1);
  byId("progress").value = decided;
  byId("count").textContent = decided + " of " + shown.length + " decided" + (isSaved ? "" : ", not downloaded");
  byId("undo").disabled = done.length === 0;
  byId("download").disabled = decisions.size + content.earlier.length === 0;
  drawCard();
}

const KEYS = {
  k: () => decide(KEEP, ""),
  x: () => decide(SET_ASIDE, ""),
  Delete: () => decide(SET_ASIDE, ""),
  u: undo,
  ArrowLeft: () => go(-1),
  ArrowRight: () => go(1),
  Enter: () => { if (items[number()]?.suggested) decide(MOVE, items[number()].suggested); },
};

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.target.tagName === "SELECT") return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "z") { undo(); event.preventDefault(); }
    return;
  }
  if (event.key === "Enter" && event.target.tagName === "BUTTON") return; // it presses the button
  const name = /^[1-9]$/.test(event.key) && number() !== undefined ? offered(items[number()])[event.key - 1] : undefined;
  const action = name === undefined ? KEYS[event.key] : () => decide(MOVE, name);
  if (action === undefined) return;
  event.preventDefault();
  action();
});

// after a click the keys are for the image again
document.addEventListener("click", (event) => { if (event.detail) event.target.closest("button")?.blur(); });
addEventListener("beforeunload", (event) => { if (!isSaved) event.preventDefault(); });

byId("summary").textContent = content.summary;
const counts = Object.entries(content.kinds)
  .map(([kind, title]) => [kind, title, items.filter((item) => item.kinds.includes(kind)).length])
  .filter(([, , count]) => count);
for (const [kind, title, count] of [[EVERY, "all images", items.length], ...counts]) {
  const option = element("option", title + " (" + count + ")");
  option.value = kind;
  byId("kind").append(option);
}
for (const name of ["", ...content.classes]) {
  const option = element("option", name);
  option.value = name;
  byId("all").append(option);
}
byId("kind").addEventListener("change", (event) => { choose(event.target.value); event.target.blur(); });
byId("all").addEventListener("change", (event) => {
  const name = event.target.value;
  event.target.blur();
  if (name) decide(MOVE, name);
});
byId("keep").addEventListener("click", () => decide(KEEP, ""));
byId("aside").addEventListener("click", () => decide(SET_ASIDE, ""));
byId("undo").addEventListener("click", undo);
byId("previous").addEventListener("click", () => go(-1));
byId("next").addEventListener("click", () => go(1));
byId("download").addEventListener("click", download);

restore();
choose(EVERY);
