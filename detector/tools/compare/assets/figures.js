"use strict";
// The figures that compare ablations: one line an ablation, a band over its seeds.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
const phone = () => window.innerWidth < 600;
const DASHES = ["solid", "dash", "dot", "dashdot"];

// The baseline's colour is its own; the others take turns, and change their dashes with every turn.
const colorOf = (group) => `--c${group ? 1 + ((group - 1) % 7) : 0}`;
const dashOf = (group) => DASHES[group ? Math.floor((group - 1) / 7) % 4 : 0];
const look = (group) => ({ color: css(colorOf(group)), dash: dashOf(group) });

function faint(color, alpha) {
  const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `rgba(${parts.join(",")},${alpha})`;
}

function layout(x, y, extra) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: phone() ? 11 : 12, color: css("--ink") },
    margin: { l: 46, r: 10, t: 8, b: 38 },
    showlegend: false,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
    hovermode: "closest",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
    xaxis: { ...axis, ...x },
    yaxis: { ...axis, ...y },
    ...extra,
  };
}

function draw(id, traces, made) {
  const mouse = matchMedia("(hover: hover)").matches;
  const remove = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"];
  const options = { responsive: true, displaylogo: false, displayModeBar: mouse && "hover", modeBarButtonsToRemove: remove };
  return Plotly.react(id, traces, made, options);
}

const LOGARITHMIC = { type: "log", exponentformat: "power", dtick: null, nticks: 7 };
const FRACTION = { range: [-0.03, 1.03] };

// Three traces: the band's lower and upper edge, and the mean.
function band(group, curve, transform, hover) {
  const { color, dash } = look(group);
  const name = plain(data.groups[group].label);
  const edge = { x: curve.x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", connectgaps: false };
  const few = curve.x.length < 12;
  const line = {
    x: curve.x,
    y: curve.mean.map(transform),
    name,
    meta: group,
    mode: few ? "lines+markers" : "lines",
    marker: { color, size: 5 },
    line: { color, dash, width: group === 0 ? 3 : 2 },
    hovertemplate: `<b>${name.replace(/%/g, "&#37;")}</b><br>${hover}<extra></extra>`,
  };
  if (runsOf(group).length < 2) return [line];
  return [
    { ...edge, y: curve.low.map(transform) },
    { ...edge, y: curve.high.map(transform), fill: "tonexty", fillcolor: faint(color, 0.13) },
    line,
  ];
}

const same = (value) => value;
const shown = () => [...state.shown].sort((a, b) => b - a); // the baseline last, on top

function drawDepth() {
  const traces = [];
  for (const group of shown()) {
    traces.push(...band(group, profileOf(group), power, "depth %{x}: %{y:.2e}"));
    const covered = runsOf(group).filter((run) => run.theory);
    if (state.kind === "activation_grad" && covered.length) {
      const theory = spread(covered.map((run) => [run.layers.map(depthOf), run.theory]));
      traces.push({
        x: theory.x,
        y: theory.mean.map(power),
        mode: "lines",
        line: { color: look(group).color, width: 1.5, dash: "1px 4px" },
        opacity: 0.9,
        hovertemplate: `theory at initialisation<br>depth %{x}: %{y:.2e}<extra></extra>`,
      });
    }
  }
  const runs = shown().flatMap(runsOf);
  const ticks = layerTicks(runs, phone() ? 8 : 24);
  const label = state.kind === "activation_grad" ? "‖dL/d activation‖" : "‖dL/d weight‖";
  return draw("depth", traces, layout(
    { ...ticks, tickangle: -50, title: { text: "trunk block, from the image to the head" } },
    // The axis stays where it is while the slider moves, so that it is the curve that moves.
    { ...LOGARITHMIC, range: rangeOf(runs), title: { text: label } },
  ));
}

// The exponents that the shown runs ever reach, with a little air.
function rangeOf(runs) {
  let low = Infinity;
  let high = -Infinity;
  for (const run of runs) {
    for (const row of run.profiles[state.kind]) {
      for (const value of row) {
        if (value !== null && value < low) low = value;
        if (value !== null && value > high) high = value;
      }
    }
  }
  return low > high ? [-1, 1] : [low - 0.4, high + 0.4];
}

function drawSeries(id, key, y, digits, shapes) {
  const traces = shown().flatMap((group) => band(group, seriesOf(group, key), same, `step %{x}: %{y:${digits}}`));
  return draw(id, traces, layout({ title: { text: "step" } }, y, { shapes: shapes || [] }));
}

function drawIndex() {
  const shapes = data.bands.map((y) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: css("--soft"), width: 1, dash: "dash" },
  }));
  return drawSeries("index", "gradient/vanishing_index", { title: { text: "V (decades)" } }, "+.2f", shapes);
}

const drawLoss = () => drawSeries("loss", "train/loss", LOGARITHMIC, ".2f");
const drawTrainMap = () => drawSeries("map-train", "train/mAP50-95", FRACTION, ".3f");
const drawValMap = () => drawSeries("map-val", "val/mAP50-95", FRACTION, ".3f");

// One panel a metric: their units differ. On a phone they stand above one another.
function drawEffects() {
  if (!data.effects.length) return null;
  const columns = phone() ? 1 : data.effects.length;
  const rows = Math.ceil(data.effects.length / columns);
  const made = layout({}, {}, { grid: { rows, columns, pattern: "independent", xgap: 0.12, ygap: 0.35 }, annotations: [] });
  const plot = document.getElementById("effects");
  plot.style.height = `${rows * (70 + 34 * data.effects[0].names.length) + (rows > 1 ? 40 : 20)}px`;
  const traces = data.effects.map((metric, at) => {
    const suffix = at ? at + 1 : "";
    const first = at % columns === 0;
    made[`xaxis${suffix}`] = { ...made.xaxis, title: { text: metric.metric }, rangemode: "tozero", zeroline: true, zerolinecolor: css("--soft"), zerolinewidth: 2 };
    made[`yaxis${suffix}`] = { ...made.yaxis, showticklabels: first, autorange: "reversed", type: "category" };
    return {
      x: metric.mean,
      y: metric.names.map(plain),
      xaxis: `x${suffix}`,
      yaxis: `y${suffix}`,
      mode: "markers",
      marker: { color: css("--accent"), size: 9 },
      error_x: {
        type: "data",
        symmetric: false,
        array: metric.high.map((high, place) => (high === null ? 0 : high - metric.mean[place])),
        arrayminus: metric.low.map((low, place) => (low === null ? 0 : metric.mean[place] - low)),
        color: css("--accent"),
        thickness: 2,
      },
      customdata: metric.n,
      hovertemplate: "%{y}: %{x:+.3f}, %{customdata} seeds<extra></extra>",
    };
  });
  return draw("effects", traces, made);
}
