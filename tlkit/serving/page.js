"use strict";

const NUM_SHOWN = 5;
const byId = (name) => document.getElementById(name);
let latest = 0;

function show(element, text) {
  element.textContent = text;
  element.hidden = text === "";
}

function percent(fraction) {
  return (100 * fraction).toFixed(1) + "\u00a0%";
}

function showAnswer(answer) {
  const names = answer.labels.length ? answer.labels.join(", ") : "No label";
  show(byId("label"), answer.known === false ? "None of these; else " + names : names);
  const highest = Object.entries(answer.probabilities)
    .sort((a, b) => b[1] - a[1]).slice(0, NUM_SHOWN);
  byId("probabilities").replaceChildren(...highest.map(([name, probability]) => {
    const row = document.createElement("li");
    const bar = document.createElement("meter");
    bar.value = probability;
    const [first, last] = [document.createElement("span"), document.createElement("span")];
    first.textContent = name;
    last.textContent = percent(probability);
    last.className = "probability";
    row.append(first, bar, last);
    return row;
  }));
}

async function predict(file) {
  const current = ++latest;
  const image = byId("image");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  image.onerror = () => { image.hidden = true; };
  show(byId("error"), "");
  show(byId("label"), "…");
  byId("probabilities").replaceChildren();
  let answer;
  let error = "";
  try {
    const response = await fetch("predict", { method: "POST", body: file });
    answer = await response.json();
    error = response.ok ? "" : answer.error;
  } catch (reason) {
    error = "The server did not answer: " + reason.message;
  }
  if (current !== latest) return; // another image was dropped in the meantime
  show(byId("label"), "");
  show(byId("error"), error);
  if (!error) showAnswer(answer);
}

const drop = byId("drop");
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) predict(event.target.files[0]);
  event.target.value = ""; // so that the same file may be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) predict(event.dataTransfer.files[0]);
});
// the browser must not open an image that is dropped outside the box
for (const kind of ["dragover", "drop"]) {
  window.addEventListener(kind, (event) => event.preventDefault());
}

fetch("health").then((response) => response.json()).then((health) => {
  const names = health.class_names;
  const rest = names.length > 20 ? ", …" : "";
  show(byId("classes"), names.slice(0, 20).join(", ") + rest);
});
