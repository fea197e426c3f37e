"use strict";
// What is shown, and how runs become the lines of an ablation. Nothing here touches the page.

const data = JSON.parse(document.getElementById("data").textContent);

const state = {
  shown: new Set(data.groups.keys()), // numbers of groups
  seeds: new Set(data.runs.map((run) => run.seed)),
  kind: "activation_grad",
  step: 0,
  run: 0,
};

// Every step at which some run recorded its gradients: the slider's stops.
const stops = [...new Set(data.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);

const runsOf = (group) => data.runs.filter((run) => run.group === group && state.seeds.has(run.seed));

// plotly reads a little HTML in its texts, and a name is a stranger's: it must stay a name.
const plain = (text) =>
  String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

const depthOf = (layer, place) => (/^\d{1,5}_/.test(layer) ? parseInt(layer, 10) : place);

const power = (exponent) => (exponent === null || exponent === undefined ? null : 10 ** exponent);

// The newest row at or before a step; -1 if the run began later.
function rowAt(steps, step) {
  let row = -1;
  while (row + 1 < steps.length && steps[row + 1] <= step) row += 1;
  return row;
}

// Mean, lowest and highest over the runs that have a number at x; in the order of x.
function spread(curves) {
  const at = new Map();
  for (const [xs, ys] of curves) {
    xs.forEach((x, place) => {
      const y = ys[place];
      if (!at.has(x)) at.set(x, []);
      if (y !== null && y !== undefined) at.get(x).push(y);
    });
  }
  const xs = [...at.keys()].sort((a, b) => a - b);
  const over = (f) => xs.map((x) => (at.get(x).length ? f(at.get(x)) : null));
  return {
    x: xs,
    mean: over((v) => v.reduce((a, b) => a + b, 0) / v.length),
    low: over((v) => Math.min(...v)),
    high: over((v) => Math.max(...v)),
  };
}

// A group's profile over depth at the slider's step, as exponents of ten.
function profileOf(group) {
  const curves = [];
  for (const run of runsOf(group)) {
    const row = rowAt(run.steps, state.step);
    if (row >= 0) curves.push([run.layers.map(depthOf), run.profiles[state.kind][row]]);
  }
  return spread(curves);
}

// A group's scalar over the steps.
function seriesOf(group, key) {
  const found = runsOf(group).map((run) => run.series[key]);
  return spread(found.filter(Boolean).map((curve) => [curve.steps, curve.values]));
}

// The layers' names as ticks: those of the deepest network shown, thinned out to what fits.
function layerTicks(runs, most) {
  const layers = runs.reduce((longest, run) => (run.layers.length > longest.length ? run.layers : longest), []);
  const every = Math.max(1, Math.ceil(layers.length / most));
  const same = runs.every((run) => run.layers.every((name, place) => name === layers[place]));
  const kept = layers.map((name, place) => [depthOf(name, place), name]).filter((_, place) => place % every === 0);
  const named = kept.map(([depth, name]) => plain(same ? name.replace(/^\d+_/, "") : depth));
  return { tickvals: kept.map(([depth]) => depth), ticktext: named };
}
