"use strict";
// Buttons, slider and menus, and when which figure is drawn again.

const $ = (id) => document.getElementById(id);

const FIGURES = {
  depth: drawDepth, index: drawIndex, loss: drawLoss, "map-train": drawTrainMap, "map-val": drawValMap,
  effects: drawEffects, layers: drawLayers, heat: drawHeat, ledger: drawLedger,
};
const OVER_RUNS = ["depth", "index", "loss", "map-train", "map-val"];
const OF_ONE = ["layers", "heat", "ledger"];

// A figure is drawn when it comes near the window, not before: the page opens at once, however many there are.
const near = new Set();
const stale = new Set(Object.keys(FIGURES));

function refresh(ids) {
  ids.forEach((id) => stale.add(id));
  for (const id of [...stale]) {
    if (!near.has(id)) continue;
    stale.delete(id);
    FIGURES[id]();
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const { id } = entry.target.querySelector(".plot");
    if (entry.isIntersecting) near.add(id);
    else near.delete(id);
  }
  refresh([]);
}, { rootMargin: "400px" });

function swatch(group) {
  const dashes = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" }[dashOf(group)];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ width: 22, height: 8, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const drawn = { x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": dashes };
  for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
  line.style.stroke = `var(${colorOf(group)})`;
  svg.append(line);
  return svg;
}

function chip(parent, label, attribute, value, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.dataset[attribute] = value;
  button.setAttribute("aria-pressed", "true");
  button.append(label); // text, never HTML
  button.addEventListener("click", onClick);
  parent.append(button);
  return button;
}

function press() {
  for (const button of document.querySelectorAll("[data-group]")) {
    button.setAttribute("aria-pressed", state.shown.has(Number(button.dataset.group)));
  }
  for (const button of document.querySelectorAll("[data-seed]")) {
    button.setAttribute("aria-pressed", state.seeds.has(JSON.parse(button.dataset.seed)));
  }
  for (const button of document.querySelectorAll("[data-kind]")) {
    button.setAttribute("aria-pressed", state.kind === button.dataset.kind);
  }
}

function toggle(set, item) {
  if (!set.delete(item)) set.add(item);
  press();
  refresh(OVER_RUNS);
}

function show(groups) {
  state.shown = new Set(groups);
  press();
  refresh(OVER_RUNS);
}

function goTo(place) {
  state.step = stops[place] ?? 0;
  $("step").value = place;
  $("step").setAttribute("aria-valuetext", `step ${state.step}`);
  $("step-now").textContent = state.step.toLocaleString("en");
  refresh(["depth", "ledger"]);
}

let playing = null;
function play() {
  const stop = () => {
    clearInterval(playing);
    playing = null;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "Play training");
  };
  if (playing) return stop();
  if (Number($("step").value) >= stops.length - 1) goTo(0);
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "Pause");
  playing = setInterval(() => {
    const next = Number($("step").value) + 1;
    if (next >= stops.length) stop();
    else goTo(next);
  }, 120);
}

function repaint() {
  $("theme").textContent = dark() ? "Light" : "Dark";
  refresh(Object.keys(FIGURES));
}

function start() {
  data.groups.forEach((group, number) => {
    const button = chip($("groups"), group.label, "group", number, () => toggle(state.shown, number));
    button.prepend(swatch(number));
    button.title = group.changes.join(", ") || "the baseline";
  });
  for (const seed of [...state.seeds].sort((a, b) => a - b)) {
    chip($("seeds"), String(seed), "seed", JSON.stringify(seed), () => toggle(state.seeds, seed));
  }
  for (const button of document.querySelectorAll("[data-kind]")) {
    button.addEventListener("click", () => {
      state.kind = button.dataset.kind;
      press();
      refresh(["depth", "layers", "heat"]);
    });
  }
  $("all").addEventListener("click", () => show(data.groups.keys()));
  $("only").addEventListener("click", () => show([0]));

  data.runs.forEach((run, number) => {
    $("run").append(new Option(`${data.groups[run.group].label}, seed ${run.seed}`, number));
  });
  const choose = () => {
    state.run = Number($("run").value);
    const { state: ended, ledger } = chosen();
    $("ledger-figure").hidden = !ledger.length;
    $("run-state").textContent = ended === "finished" ? "" : ended;
    refresh(OF_ONE);
  };
  $("run").addEventListener("change", choose);

  $("step").max = Math.max(0, stops.length - 1);
  $("step").addEventListener("input", () => goTo(Number($("step").value)));
  $("play").addEventListener("click", play);
  goTo(0);

  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  matchMedia("(max-width: 599px)").addEventListener("change", repaint);

  $("effects-figure").hidden = !data.effects.length;
  $("theory-note").hidden = !data.runs.some((run) => run.theory);
  choose();
  repaint();
  for (const figure of document.querySelectorAll("main figure")) watcher.observe(figure);
}

start();
