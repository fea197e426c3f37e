"use strict";
// The figures about one run: every layer over time, as lines and as a map, and its ledger.

const chosen = () => data.runs[state.run];

const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

// A colour of viridis, short of the end that would vanish on the background.
function shade(fraction) {
  const place = (dark() ? 0.3 + 0.7 * fraction : 0.85 * fraction) * (VIRIDIS.length - 1);
  const [from, to] = [VIRIDIS[Math.floor(place)], VIRIDIS[Math.ceil(place)]];
  const mixed = [1, 3, 5].map((at) => {
    const [a, b] = [from, to].map((color) => parseInt(color.slice(at, at + 2), 16));
    return Math.round(a + (b - a) * (place % 1));
  });
  return `rgb(${mixed.join(",")})`;
}

function drawLayers() {
  const run = chosen();
  const traces = run.layers.map((layer, place) => ({
    x: run.steps,
    y: run.profiles[state.kind].map((row) => power(row[place])),
    name: plain(layer),
    mode: run.steps.length < 2 ? "markers" : "lines",
    line: { color: shade(place / Math.max(1, run.layers.length - 1)), width: 1.6 },
    hovertemplate: `${plain(layer).replace(/%/g, "&#37;")}, step %{x}: %{y:.2e}<extra></extra>`,
  }));
  return draw("layers", traces, layout({ title: { text: "step" } }, { ...LOGARITHMIC }));
}

function drawHeat() {
  const run = chosen();
  const trace = {
    type: "heatmap",
    x: run.steps,
    y: run.layers.map((_, place) => place),
    z: run.layers.map((_, place) => run.profiles[state.kind].map((row) => row[place])),
    colorscale: "Viridis",
    colorbar: { title: { text: "log10" }, thickness: 12, outlinewidth: 0, tickcolor: css("--soft") },
    customdata: run.layers.map((layer) => run.steps.map(() => plain(layer))),
    hovertemplate: "%{customdata}, step %{x}: 10^%{z:.2f}<extra></extra>",
    hoverongaps: false,
  };
  const every = Math.max(1, Math.ceil(run.layers.length / (phone() ? 12 : 24)));
  const ticks = run.layers.map((_, place) => place).filter((place) => place % every === 0);
  const y = { tickvals: ticks, ticktext: ticks.map((place) => plain(run.layers[place].replace(/^\d+_/, ""))), tickfont: { size: 10 } };
  return draw("heat", [trace], layout({ title: { text: "step" } }, { ...y, showgrid: false }));
}

// One bar a block, from the head to the image; the operations of a block are in its label.
function drawLedger() {
  const { ledger } = chosen();
  if (!ledger.length) return null;
  const steps = [...new Set(ledger.map(([step]) => step))].sort((a, b) => a - b);
  const step = steps[Math.max(0, rowAt(steps, state.step))];
  const blocks = new Map();
  for (const [at, block, operation, decades] of ledger) {
    if (at !== step) continue;
    if (!blocks.has(block)) blocks.set(block, { total: 0, lines: [] });
    const entry = blocks.get(block);
    entry.total += decades || 0;
    entry.lines.push(`${plain(operation)}: ${decades === null ? "not finite" : decades.toFixed(2)}`);
  }
  const order = [...blocks.keys()].sort((a, b) => depthOf(b, 0) - depthOf(a, 0));
  const color = (name) => ({ marker: { color: css(name) } });
  const trace = {
    type: "waterfall",
    x: order.map((block) => plain(block.replace(/^\d+_/, ""))),
    y: order.map((block) => blocks.get(block).total),
    customdata: order.map((block) => blocks.get(block).lines.join("<br>")),
    increasing: color("--c3"),
    decreasing: color("--c1"),
    connector: { line: { color: css("--line"), width: 1 } },
    hovertemplate: "<b>%{x}</b> %{delta:+.2f} decades, together %{final:+.2f}<br>%{customdata}<extra></extra>",
  };
  const title = `decades, at step ${step.toLocaleString("en")}`;
  return draw("ledger", [trace], layout(
    { type: "category", tickangle: -50, title: { text: "trunk block, from the head to the image" } },
    { title: { text: title } },
  ));
}
