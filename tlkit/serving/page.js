"use strict";

const SHOWN = 5;
const byId = (name) => document.getElementById(name);
let latest = 0;

function show(element, text) {
  element.textContent = text;
  element.hidden = text === "";
}

function percent(share) {
  return (100 * share).toFixed(1) + "\u00a0%";
}

function showAnswer(answer) {
  const names = answer.labels.length ? answer.labels.join(", ") : "No label";
  show(byId("label"), answer.known === false ? "None of these; else " + names : names);
  const shares = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
  byId("shares").replaceChildren(...shares.map(([name, share]) => {
    const row = document.createElement("li");
    const bar = document.createElement("meter");
    bar.value = share;
    const [first, last] = [document.createElement("span"), document.createElement("span")];
    first.textContent = name;
    last.textContent = percent(share);
    last.className = "share";
    row.append(first, bar, last);
    return row;
  }));
}

async function ask(file) {
  const mine = ++latest;
  const image = byId("image");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  image.onerror = () => { image.hidden = true; };
  show(byId("error"), "");
  show(byId("label"), "…");
  byId("shares").replaceChildren();
  let answer;
  let error = "";
  try {
    const response = await fetch("predict", { method: "POST", body: file });
    answer = await response.json();
    error = response.ok ? "" : answer.error;
  } catch (reason) {
    error = "The server gave no answer: " + reason.message;
  }
  if (mine !== latest) return; // another image was dropped meanwhile
  show(byId("label"), "");
  show(byId("error"), error);
  if (!error) showAnswer(answer);
}

const drop = byId("drop");
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) ask(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen once more
});
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
});
// an image that misses the box must not take the page's place
for (const kind of ["dragover", "drop"]) {
  window.addEventListener(kind, (event) => event.preventDefault());
}

fetch("health").then((response) => response.json()).then((health) => {
  const names = health.class_names;
  const rest = names.length > 20 ? ", …" : "";
  show(byId("classes"), names.slice(0, 20).join(", ") + rest);
});
