"""The page's HTML, a `string.Template`. In a Python file because Flower bundles no HTML with an app."""

# ruff: noqa: E501
from string import Template

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$name · fed-rebel</title>
<style>
:root {
  --paper: #ffffff; --raised: #f6f7f9; --ink: #1d2227; --faint: #5d6672; --line: #e2e5e9;
  --local: #c2500a; --remote: #0072b2; --prior: #00805e; --none: #f1f3f6; --some: #8fc1e3; --most: #08306b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --raised: #1c2026; --ink: #e8eaed; --faint: #9aa3ae; --line: #2d333b;
    --local: #f08c4a; --remote: #56b4e9; --prior: #35c397; --none: #1c2026; --some: #24618f; --most: #cfe8fa;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.75rem; font-weight: 600; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 3.5rem 0 0.25rem; font-size: 1.15rem; font-weight: 600; }
h3 { margin: 1rem 0 0; font-size: 0.95rem; font-weight: 600; }
p { margin: 0.25rem 0 1rem; max-width: 60rem; }
.facts, .note { color: var(--faint); font-size: 0.875rem; }
.fingerprint { font: 0.8rem ui-monospace, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.sentence { margin: 1.75rem 0; max-width: 46rem; font-size: 1.3rem; line-height: 1.45; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 0; background: var(--line);
  border: 1px solid var(--line); border-radius: 0.5rem; overflow: hidden; }
.tiles div { padding: 0.9rem 1rem; background: var(--paper); }
.tiles dt { color: var(--faint); font-size: 0.875rem; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd + dd { color: var(--faint); font-size: 0.8rem; font-weight: 400; line-height: 1.35; }
.table { overflow: auto; border-block: 1px solid var(--line); }
.tall { max-height: 42rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; z-index: 1; background: var(--paper); color: var(--faint); font-weight: 500; }
.sortable { min-width: 42rem; table-layout: fixed; }
.sortable thead th { white-space: normal; vertical-align: bottom; line-height: 1.25; }
tbody tr:hover > * { background: var(--raised); }
tfoot { position: sticky; bottom: 0; z-index: 1; }
tfoot th, tfoot td { background: var(--raised); }
tfoot tr:first-child > * { border-top: 1px solid var(--line); font-weight: 600; }
tfoot tr:last-child > * { border-bottom: 0; color: var(--faint); font-weight: 400; }
tbody th, .summary thead th:first-child { text-align: left; font-weight: 400; }
.sortable tbody tr:last-child > * { border-bottom: 0; }
button { all: unset; cursor: pointer; }
button:hover { color: var(--ink); }
:focus-visible { outline: 2px solid var(--remote); outline-offset: 2px; border-radius: 2px; }
th[aria-sort] { color: var(--ink); }
th[aria-sort="ascending"] button::after { content: " ↑"; }
th[aria-sort="descending"] button::after { content: " ↓"; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; }
.pair > div { min-width: 0; }
.figure { width: 100%; height: 22rem; }
footer { margin-top: 3.5rem; }
@media (max-width: 44rem) {
  body { padding-top: 1.5rem; }
  h1 { font-size: 1.4rem; }
  .sentence { font-size: 1.1rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles dd { font-size: 1.3rem; }
  .pair { grid-template-columns: 1fr; }
  .figure { height: 18rem; }
  tr > :first-child { position: sticky; left: 0; }
  tbody tr > :first-child { background: var(--paper); }
  thead tr > :first-child { z-index: 2; }
}
@media print { .table { max-height: none; overflow: visible; } tfoot { position: static; } body { max-width: none; } }
</style>
</head>
<body>
<header>
<h1>$name</h1>
<p class="facts">$facts<br>partition <span class="fingerprint">$fingerprint</span></p>
</header>
<main>
<p class="sentence">$sentence</p>
<dl class="tiles">
$tiles
</dl>
<p class="note">Plain means over the clients, each on its own test shard.</p>

<h2 id="clients">Clients</h2>
<p class="note">Accuracies and coverage in %, gain in points over sending everything. Choose a heading to sort.
$pooled</p>
<div class="table tall" tabindex="0" role="region" aria-labelledby="clients">
<table class="sortable">
<thead><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
<tfoot>
$foot
</tfoot>
</table>
</div>

<h2>Labels</h2>
<p class="note">Which classes each client meets: the share of each class in its training shard.</p>
<div id="labels" class="figure" role="img" aria-label="Heat map of the label shares of each client"></div>

<h2>Coverage</h2>
<p class="note">From everything sent (0 %) to everything answered on the device (100 %). Thin: a client. Thick: their mean.
Dots: the calibrated thresholds.</p>
<div class="pair">
<div><h3>Local accuracy of the answered queries</h3>
<div id="answered" class="figure" role="img" aria-label="Local accuracy of the answered queries against coverage"></div></div>
<div><h3>Overall accuracy</h3>
<div id="overall" class="figure" role="img" aria-label="Overall accuracy against coverage"></div></div>
</div>

<section id="rounds-section">
<h2>Rounds</h2>
<p class="note">Plain means over the clients after each evaluated round. $traffic</p>
<div id="rounds" class="figure" role="img" aria-label="Mean accuracies after each round"></div>
</section>

<h2 id="summary">Summary</h2>
<p class="note">Over the clients. Weighted: by test images. Worst decile: the mean of the lowest tenth, at least one client.
Accuracies and coverage in %, gains in points.</p>
<div class="table" tabindex="0" role="region" aria-labelledby="summary">
<table class="summary">
<thead><tr><th scope="col">metric</th><th scope="col">weighted mean</th><th scope="col">mean</th><th scope="col">sd</th>
<th scope="col">worst decile</th></tr></thead>
<tbody>
$summary
</tbody>
</table>
</div>
</main>
<footer class="note">Made by fed-rebel from clients.csv, predictions.parquet and rounds.jsonl of this run.</footer>

<script type="application/json" id="data">$data</script>
<script>$plotly</script>
<script>
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, place) => heading.firstChild.addEventListener("click", () => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    const value = row => parseFloat(row.cells[place].dataset.value);
    const undefinedLast = (a, b) => Number.isNaN(a) - Number.isNaN(b);
    const rows = [...body.rows].sort((one, other) => {
      const a = value(one), b = value(other);
      return undefinedLast(a, b) || (rising ? a - b : b - a) || 0;
    });
    body.append(...rows);
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }));
}

const data = JSON.parse(document.getElementById("data").textContent);
const settings = {responsive: true, displayModeBar: false};
const narrow = matchMedia("(max-width: 44rem)").matches;

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue("--" + name).trim();
  const axis = extra => ({gridcolor: colour("line"), zeroline: false, fixedrange: true, automargin: true, ...extra});
  const percent = extra => axis({ticksuffix: " %", ...extra});
  const layout = extra => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
    font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("faint")},
    margin: {l: 48, r: 20, t: 12, b: 44}, legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"},
    hoverlabel: {bgcolor: colour("raised"), bordercolor: colour("line"), font: {color: colour("ink")}}, ...extra,
  });

  // The colour runs with the square root of the share, so that small shares can be seen.
  const top = Math.max(...data.shares.flat()), ticks = [0, 1, 5, 20, 50, 100].filter(share => share <= top);
  const height = Math.min(900, Math.max(180, 110 + 20 * data.clients.length));
  document.getElementById("labels").style.height = height + "px";
  Plotly.react("labels", [{
    type: "heatmap", z: data.shares.map(row => row.map(Math.sqrt)), y: data.clients.map(client => "client " + client),
    customdata: data.shares.map((row, i) => row.map((share, j) => [share, data.counts[i][j]])), zmin: 0,
    colorscale: [[0, colour("none")], [0.45, colour("some")], [1, colour("most")]], xgap: narrow ? 0 : 1,
    ygap: data.clients.length > 50 ? 0 : 1,
    hovertemplate: "%{y}, class %{x}<br>%{customdata[0]:.1f} %, %{customdata[1]} images<extra></extra>",
    colorbar: {thickness: 10, outlinewidth: 0, tickvals: ticks.map(Math.sqrt), ticktext: ticks.map(share => share + " %")},
  }], layout({
    xaxis: axis({title: {text: "class"}, showgrid: false}),
    yaxis: axis({autorange: "reversed", showgrid: false, type: "category", tickmode: "auto", nticks: 40}),
  }), settings);

  const curves = data.curves;
  const apart = (rows, filler) => rows.flatMap(row => [...row, filler]);
  const clients = (rows, hue) => ({
    x: apart(rows.map(() => curves.coverage), null), y: apart(rows, null), mode: "lines", showlegend: false,
    customdata: apart(rows.map((row, i) => row.map(() => curves.clients[i])), null),
    line: {color: hue, width: 1}, opacity: Math.max(0.12, Math.min(0.45, 4 / rows.length)),
    hovertemplate: "client %{customdata}<br>coverage %{x:.0f} %: %{y:.1f} %<extra></extra>",
  });
  const mean = (name, y, hue, dash) => ({
    x: curves.coverage, y, name, mode: "lines", line: {color: hue, width: 3, dash},
    hovertemplate: name + "<br>coverage %{x:.0f} %: %{y:.1f} %<extra></extra>",
  });
  const coverage = percent({title: {text: "coverage"}, range: [-0.5, 100.5], dtick: 20});
  Plotly.react("answered", [
    clients(curves.answered, colour("local")), mean("mean", curves.answered_mean, colour("local")),
  ], layout({xaxis: coverage, yaxis: percent(), showlegend: true}), settings);
  Plotly.react("overall", [
    clients(curves.overall, colour("remote")),
    mean("mean", curves.overall_mean, colour("remote")),
    mean("mean, server knows the prior", curves.prior_mean, colour("prior"), "dash"),
    {x: data.calibrated.coverage, y: data.calibrated.overall, mode: "markers", showlegend: false, cliponaxis: false,
      customdata: data.clients, opacity: Math.max(0.25, Math.min(1, 50 / data.clients.length)),
      marker: {color: colour("paper"), size: 6, line: {color: colour("remote"), width: 1.5}},
      hovertemplate: "client %{customdata}, calibrated<br>coverage %{x:.1f} %: %{y:.1f} %<extra></extra>"},
    {x: [data.calibrated.mean[0]], y: [data.calibrated.mean[1]], mode: "markers", showlegend: false, cliponaxis: false,
      marker: {color: colour("remote"), size: 11, line: {color: colour("paper"), width: 2}},
      hovertemplate: "mean, calibrated<br>coverage %{x:.1f} %: %{y:.1f} %<extra></extra>"},
  ], layout({xaxis: coverage, yaxis: percent()}), settings);

  const rounds = data.rounds;
  document.getElementById("rounds-section").hidden = !rounds.name.length;
  if (!rounds.name.length) return;
  const line = (name, y, hue) => ({
    x: rounds.name, y, name, mode: "lines+markers", line: {color: hue, width: 2}, marker: {size: 6},
    hovertemplate: name + " after %{x}: %{y:.1f} %<extra></extra>",
  });
  Plotly.react("rounds", [
    line("local", rounds.local, colour("local")), line("remote", rounds.remote, colour("remote")),
    line("overall", rounds.overall, colour("ink")),
  ], layout({xaxis: axis({type: "category"}), yaxis: percent()}), settings);
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
</script>
</body>
</html>
"""
)
