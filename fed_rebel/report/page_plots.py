"""The page's figures: each drawn when it comes into view, and again when what it shows has changed."""

# ruff: noqa: E501
PLOTS = r"""
// Plotly is the largest part of the page by far: it is read when the first figure comes into view, not before the table is shown.
function withPlotly() {
  if (!window.Plotly) document.head.append(Object.assign(document.createElement("script"), {textContent: byId("plotly").textContent}));
  return window.Plotly;
}

const narrow = matchMedia("(max-width: 44rem)").matches;
const settings = {responsive: true, displayModeBar: false};
const names = data.clients.map(client => "client " + client);

const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const axis = extra => ({gridcolor: colour("line"), zeroline: false, fixedrange: true, automargin: true, ...extra});
const inPercent = extra => axis({ticksuffix: " %", ...extra});
const layout = extra => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
  font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("faint")},
  margin: {l: 48, r: 20, t: 12, b: 44}, legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal"},
  hoverlabel: {bgcolor: colour("raised"), bordercolor: colour("line"), font: {color: colour("ink")}}, ...extra,
});
const shades = () => [[0, colour("none")], [0.45, colour("some")], [1, colour("most")]];
const bar = extra => ({thickness: 10, outlinewidth: 0, ...extra});
const faded = count => Math.max(0.3, Math.min(0.9, 60 / count));

// ---- Matrices: a row a client.

function matrix(packed, width) {
  const values = Float32Array.from(new Uint16Array(bytes(packed)), value => value === 65535 ? NaN : value / 10000);
  return data.clients.map((_, row) => values.subarray(row * width, (row + 1) * width));
}
const clientRows = () => axis({autorange: "reversed", showgrid: false, type: "category", tickmode: "auto", nticks: 40});

// The colour runs with the square root of the share, so that small shares can be seen.
function drawLabels() {
  const shares = data.counts.map(row => { const all = row.reduce((a, b) => a + b, 0); return row.map(count => 100 * count / all); });
  const top = Math.max(...shares.map(row => Math.max(...row))), ticks = [0, 1, 5, 20, 50, 100].filter(share => share <= top);
  return [[{
    type: "heatmap", z: shares.map(row => row.map(Math.sqrt)), y: names, zmin: 0, colorscale: shades(),
    customdata: shares.map((row, i) => row.map((share, j) => [share, data.counts[i][j]])),
    xgap: narrow || names.length > 50 ? 0 : 1, ygap: names.length > 50 ? 0 : 1,
    hovertemplate: "%{y}, class %{x}<br>%{customdata[0]:.1f} %, %{customdata[1]} images<extra></extra>",
    colorbar: bar({tickvals: ticks.map(Math.sqrt), ticktext: ticks.map(share => share + " %")}),
  }], layout({xaxis: axis({title: {text: "class"}, showgrid: false}), yaxis: clientRows()})];
}

// A bitmap of 400 columns, since a thousand clients would be a hundred thousand bars; between two classes a column is left out.
function drawLabelShares() {
  const width = 400, classes = data.classes.count, z = [], hints = [], annotations = [];
  data.counts.forEach((counts, client) => {
    const all = counts.reduce((a, b) => a + b, 0);
    const order = counts.map((count, c) => c).filter(c => counts[c]).sort((a, b) => counts[b] - counts[a] || a - b);
    const row = new Array(width).fill(null), hint = new Array(width).fill("");
    let start = 0;
    for (const c of order) {
      const share = counts[c] / all, first = Math.round(width * start), end = Math.round(width * (start + share));
      for (let i = first; i < end; i++) hint[i] = `class ${c}: ${(100 * share).toFixed(1)} %, ${counts[c]} images`;
      for (let i = first; i < end - (end - first > 2); i++) row[i] = c;
      if (names.length <= 30 && share > (narrow ? 0.09 : 0.025)) annotations.push({
        x: 100 * (start + share / 2), y: names[client], text: String(c), showarrow: false, font: {size: 11, color: "#1d2227"},
      });
      start += share;
    }
    z.push(row);
    hints.push(hint);
  });
  const wheel = Array.from({length: 13}, (_, i) => [i / 12, `hsl(${30 * i}, 60%, 72%)`]);
  return [[{
    type: "heatmap", z, y: names, x0: 100 / width / 2, dx: 100 / width, text: hints, zmin: 0, zmax: classes, colorscale: wheel,
    showscale: false, ygap: names.length > 50 ? 0 : 3, hovertemplate: "%{y}<br>%{text}<extra></extra>", hoverongaps: false,
  }], layout({annotations, xaxis: inPercent({range: [0, 100], showgrid: false, title: {text: "share of the training images"}}), yaxis: clientRows()})];
}

const drawByClass = (packed, what) => () => [[{
  type: "heatmap", z: matrix(packed, data.classes.count).map(row => row.map(share => 100 * share)), y: names, zmin: 0, zmax: 100, colorscale: shades(),
  xgap: narrow || names.length > 50 ? 0 : 1, ygap: names.length > 50 ? 0 : 1, hoverongaps: false,
  hovertemplate: `%{y}, class %{x}<br>%{z:.1f} % ${what}<extra></extra>`, colorbar: bar({ticksuffix: " %", dtick: 25}),
}], layout({xaxis: axis({title: {text: "class"}, showgrid: false}), yaxis: clientRows()})];

function drawOverlap() {
  const z = matrix(data.overlap, names.length);
  const few = names.length <= (narrow ? 6 : 12);
  return [[{
    type: "heatmap", z, x: names, y: names, zmin: 0, zmax: 1, colorscale: shades(), hoverongaps: false,
    texttemplate: few ? "%{z:.2f}" : "", hovertemplate: "%{y} and %{x}: %{z:.2f}<extra></extra>", colorbar: bar({dtick: 0.25}),
  }], layout({xaxis: axis({showgrid: false, type: "category", nticks: 20}), yaxis: {...clientRows(), nticks: 20}})];
}

// ---- A point a client.

function byGini(values, hue, symbol, what) {
  return {
    x: data.gini, y: values, mode: "markers", showlegend: false, cliponaxis: false, customdata: data.clients.map((client, place) => [client, place]),
    marker: {color: hue, symbol, size: 9, opacity: faded(names.length), line: {color: colour("paper"), width: 1}},
    hovertemplate: `client %{customdata[0]}, Gini %{x:.2f}<br>%{y:.1f} ${what}<extra></extra>`,
  };
}
const giniAxis = () => axis({title: {text: "Gini of the client's labels"}, tickformat: ".3~f", nticks: 7});
const drawGain = (key, hue, symbol) => () => [
  [byGini(now.rows[key].map(value => 100 * value), colour(hue), symbol, "points")],
  layout({xaxis: giniAxis(), yaxis: axis({title: {text: "points"}, zeroline: true, zerolinecolor: colour("faint")})}),
];
const drawReachable = () => [
  [byGini(data.reachable.map(value => 100 * value), colour("remote"), "circle", "% coverage")],
  layout({xaxis: giniAxis(), yaxis: inPercent({range: [-3, 103], title: {text: "coverage"}})}),
];

// ---- Curves.

const coverageAxis = () => inPercent({title: {text: "coverage"}, range: [-0.5, 100.5], dtick: 20});
function everyCurve(rows, hue) {
  const apart = rows => rows.flatMap(row => [...row, null]);
  return {
    x: apart(rows.map(() => data.curves.coverage)), y: apart(rows), mode: "lines", showlegend: false,
    customdata: apart(rows.map((row, i) => row.map(() => data.clients[i]))),
    line: {color: hue, width: 1}, opacity: Math.max(0.12, Math.min(0.45, 4 / rows.length)),
    hovertemplate: "client %{customdata}<br>coverage %{x:.0f} %: %{y:.1f} %<extra></extra>",
  };
}
const meanCurve = (name, y, hue, dash) => ({
  x: data.curves.coverage, y, name, mode: "lines", line: {color: hue, width: 3, dash},
  hovertemplate: name + "<br>coverage %{x:.0f} %: %{y:.1f} %<extra></extra>",
});
const dots = (key, hue, symbol) => ({
  x: now.rows.coverage.map(value => 100 * value), y: now.rows[key].map(value => 100 * value), mode: "markers", showlegend: false, cliponaxis: false,
  customdata: data.clients.map((client, place) => [client, place]), opacity: faded(names.length),
  marker: {color: colour("paper"), size: 7, symbol, line: {color: hue, width: 1.5}},
  hovertemplate: "client %{customdata[0]}, now<br>coverage %{x:.1f} %: %{y:.1f} %<extra></extra>",
});
const DOTS = {"answered": ["local_acc_answered", "local"], "overall": ["overall_acc", data.takesInformed ? "prior" : "remote"]};
const dotsOf = id => { const [key, hue] = DOTS[id]; return dots(key, colour(hue), "circle"); };
const drawAnswered = () => [[
  everyCurve(data.curves.answered, colour("local")), meanCurve("mean", data.curves.answered_mean, colour("local")),
  dotsOf("answered"),
], layout({xaxis: coverageAxis(), yaxis: inPercent(), showlegend: true})];
const drawOverall = () => [[
  everyCurve(data.curves.overall, colour(data.takesInformed ? "prior" : "remote")),
  meanCurve("mean", data.curves.overall_mean, colour("remote")),
  meanCurve("mean, server " + data.curves.informed, data.curves.informed_mean, colour("prior"), "dash"),
  dotsOf("overall"),
], layout({xaxis: coverageAxis(), yaxis: inPercent()})];

function drawRounds() {
  const rounds = data.rounds, traces = [];
  for (const [key, name, hue, symbol, dash] of [
    ["local_acc", "local", "local", "circle", "solid"], ["remote_acc", "remote", "remote", "square", "dash"], ["overall_acc", "overall", "ink", "diamond", "dot"],
  ]) {
    if (rounds[key].every(value => value === null)) continue;
    const edge = {x: rounds.name, mode: "lines", line: {width: 0, color: colour(hue)}, showlegend: false, hoverinfo: "skip"};
    traces.push({...edge, y: rounds[key + "_low"]});
    traces.push({...edge, y: rounds[key + "_high"], fill: "tonexty", fillcolor: colour(hue) + "20"});
    traces.push({
      x: rounds.name, y: rounds[key], name, mode: "lines+markers", line: {color: colour(hue), width: 2, dash}, marker: {size: 7, symbol},
      customdata: rounds[key].map((_, i) => [rounds[key + "_low"][i], rounds[key + "_high"][i]]),
      hovertemplate: name + " after %{x}: %{y:.1f} %<br>10 % to 90 % of the clients: %{customdata[0]:.1f} to %{customdata[1]:.1f} %<extra></extra>",
    });
  }
  return [traces, layout({xaxis: axis({type: "category"}), yaxis: inPercent()})];
}

// ---- The open client.

const classAxis = classes => axis({type: "category", categoryorder: "array", categoryarray: classes, title: {text: "class"}, showgrid: false, nticks: narrow ? 12 : 40});
// The classes among a client's test queries and its early classifier's answers, in the order of its training images.
function classesMet() {
  const {starts, label, local} = queries(), counts = data.counts[opened], met = new Set();
  for (let j = starts[opened]; j < starts[opened + 1]; j++) { met.add(label[j]); met.add(local[j]); }
  return [...met].sort((a, b) => counts[b] - counts[a] || a - b).map(String);
}
function classesHeld() {
  const counts = data.counts[opened];
  return counts.map((_, c) => c).filter(c => counts[c]).sort((a, b) => counts[b] - counts[a] || a - b).map(String);
}

function drawClientHistogram() {
  const classes = classesHeld();
  return [[{
    type: "bar", x: classes, y: classes.map(c => data.counts[opened][c]), marker: {color: colour("remote")},
    hovertemplate: "class %{x}: %{y} images<extra></extra>",
  }], layout({xaxis: classAxis(classes), yaxis: axis({title: {text: "training images"}})})];
}

function drawClientRouting() {
  const {starts, label, local, remote} = queries(), classes = classesMet();
  const kinds = [["alone, right", "local", ""], ["alone, wrong", "local", "x"], ["sent, right", "remote", "/"], ["sent, wrong", "remote", "."]];
  const counts = kinds.map(() => Object.fromEntries(classes.map(c => [c, 0])));
  for (let j = starts[opened]; j < starts[opened + 1]; j++) {
    const alone = now.alone(opened, j), right = (alone ? local : remote)[j] === label[j];
    counts[(alone ? 0 : 2) + (right ? 0 : 1)][label[j]]++;
  }
  return [kinds.map(([name, hue, shape], i) => ({
    type: "bar", name, x: classes, y: classes.map(c => counts[i][c]),
    marker: {color: colour(hue), pattern: {shape, size: 6, fillmode: "replace", fgcolor: colour(hue)}, line: {color: colour(hue), width: 1}},
    hovertemplate: `class %{x}, ${name}: %{y}<extra></extra>`,
  })), layout({barmode: "stack", xaxis: classAxis(classes), yaxis: axis({title: {text: "test queries"}})})];
}

function drawClientCurve() {
  const {starts, score, localRight, remoteRight} = queries(), first = starts[opened], end = starts[opened + 1];
  const x = [], answered = [], sent = [], overall = [];
  for (let split = first; split <= end; split++) {
    if (split > first && split < end && score[split] === score[split - 1]) continue;
    const right = localRight[split] - localRight[first], sentRight = remoteRight[end] - remoteRight[split];
    x.push(100 * (split - first) / (end - first));
    answered.push(split > first ? 100 * right / (split - first) : null);
    sent.push(split < end ? 100 * sentRight / (end - split) : null);
    overall.push(100 * (right + sentRight) / (end - first));
  }
  const here = 100 * now.rows.coverage[opened], line = (name, y, hue, dash, width) => ({
    x, y, name, mode: "lines", line: {color: colour(hue), dash, width}, hovertemplate: name + "<br>coverage %{x:.1f} %: %{y:.1f} %<extra></extra>",
  });
  return [[
    line("local, answered", answered, "local", "solid", 2), line("remote, sent", sent, "remote", "dash", 2), line("overall", overall, "ink", "solid", 3),
  ], layout({xaxis: coverageAxis(), yaxis: inPercent({range: [0, 101]}), shapes: [
    {type: "line", x0: here, x1: here, y0: 0, y1: 1, yref: "paper", line: {color: colour("faint"), width: 2}},
    {type: "line", x0: 0, x1: 1, xref: "paper", y0: overall[0], y1: overall[0], line: {color: colour("faint"), dash: "dot", width: 1.5}},
  ]})];
}

const drawConfusion = onlyAlone => () => {
  const {starts, label, local} = queries(), classes = classesMet(), place = new Map(classes.map((c, i) => [Number(c), i]));
  const counts = classes.map(() => new Array(classes.length).fill(0));
  for (let j = starts[opened]; j < starts[opened + 1]; j++) {
    if (!onlyAlone || now.alone(opened, j)) counts[place.get(label[j])][place.get(local[j])]++;
  }
  const shares = counts.map(row => { const all = row.reduce((a, b) => a + b, 0); return row.map(count => all ? 100 * count / all : null); });
  return [[{
    type: "heatmap", z: shares, x: classes, y: classes, customdata: counts, zmin: 0, zmax: 100, colorscale: shades(), hoverongaps: false,
    hovertemplate: "class %{y} taken for %{x}: %{customdata} (%{z:.0f} %)<extra></extra>", colorbar: bar({ticksuffix: " %", dtick: 50}),
  }], layout({
    xaxis: axis({type: "category", title: {text: "its label"}, showgrid: false, nticks: 20}),
    yaxis: axis({type: "category", title: {text: "true class"}, showgrid: false, autorange: "reversed", nticks: 20}),
  })];
};

// ---- When they are drawn.

const FIGURES = {
  "gain-from-server": drawGain("gain_from_server", "local", "circle"), "gain-over-remote": drawGain("gain", "remote", "diamond"),
  "answered": drawAnswered, "overall": drawOverall, "reachable": drawReachable, "labels": drawLabels, "label-shares": drawLabelShares,
  "class-share": drawByClass(data.classes.share, "answered alone"), "class-accuracy": drawByClass(data.classes.accuracy, "right"),
  "overlap": drawOverlap, "rounds": drawRounds,
};
const OF_CLIENT = {
  "client-histogram": drawClientHistogram, "client-routing": drawClientRouting, "client-curve": drawClientCurve,
  "client-confusion": drawConfusion(false), "client-confusion-alone": drawConfusion(true),
};

const stale = new Set(Object.keys(FIGURES)), inView = new Set();
function draw(id) {
  const node = byId(id), isNew = !node.classList.contains("js-plotly-plot");
  if (!node.offsetParent) return;  // hidden: the run has no such numbers
  stale.delete(id);
  withPlotly().react(node, ...FIGURES[id](), settings);
  if (isNew) node.on("plotly_click", ({points: [{customdata}]}) => { if (Array.isArray(customdata) && customdata.length === 2 && node.dataset.opens) openClient(customdata[1]); });
}
function redraw(ids) {
  ids.forEach(id => stale.add(id));
  ids.filter(id => inView.has(id)).forEach(draw);
}
// After the threshold has moved. A thousand curves stand still: only the dots on them, the last trace, are drawn again.
function follow() {
  if (opened !== null) { writeClient(); drawClient(); }
  redraw(["gain-from-server", "gain-over-remote"]);
  for (const id of Object.keys(DOTS)) {
    if (stale.has(id)) continue;
    const {x, y} = dotsOf(id), still = {transition: {duration: 0}, frame: {duration: 0, redraw: false}};
    withPlotly().animate(id, {data: [{x, y}], traces: [byId(id).data.length - 1]}, {...still, mode: "immediate"})
      .catch(() => {});  // overtaken by the next
  }
}
function drawClient() {
  for (const [id, figure] of Object.entries(OF_CLIENT)) if (byId(id).offsetParent) withPlotly().react(byId(id), ...figure(), settings);
}

byId("rounds-section").hidden = !data.rounds.name.length;
const height = Math.min(900, Math.max(180, 110 + 20 * names.length));
for (const node of document.querySelectorAll(".per-client")) node.style.height = height + "px";
for (const id of ["gain-from-server", "gain-over-remote", "reachable", "answered", "overall"]) byId(id).dataset.opens = "client";
const watcher = new IntersectionObserver(entries => entries.forEach(({target: {id}, isIntersecting}) => {
  inView[isIntersecting ? "add" : "delete"](id);
  if (isIntersecting && stale.has(id)) draw(id);
}), {rootMargin: "200px"});
Object.keys(FIGURES).forEach(id => watcher.observe(byId(id)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { redraw(Object.keys(FIGURES)); if (opened !== null) drawClient(); });
addEventListener("beforeprint", () => [...stale].forEach(draw));
toCalibrated();
writeMeans();
"""
