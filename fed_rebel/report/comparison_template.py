"""The HTML of the page over several runs, `string.Template`s. In a Python file because Flower bundles no HTML."""

# ruff: noqa: E501
from string import Template

from fed_rebel.report.page_style import BASE, HEAD

STYLE = (
    BASE
    + """
body { max-width: 68rem; }
h3 { margin: 1.5rem 0 0; font-size: 0.95rem; font-weight: 600; }
a { color: var(--remote); }
.panel .note { margin-bottom: 0; min-height: 2.6em; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr > :first-child { text-align: left; }
thead th { color: var(--faint); font-weight: 500; white-space: normal; vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 400; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover > * { background: var(--raised); }
.key { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; padding: 0.4rem 0;
  background: var(--paper); font-size: 0.875rem; max-height: 30vh; overflow: auto; }
.key [aria-pressed="false"] { opacity: 0.4; text-decoration: line-through; }
tbody i, .key i { display: inline-block; width: 0.7rem; height: 0.7rem; margin-right: 0.5rem; border-radius: 50%; }
small { color: var(--faint); font-size: 0.8rem; }
.pair > section { min-width: 0; }
.figure { width: 100%; height: 23rem; }
ul { margin: 0.5rem 0; padding-left: 1.2rem; }
.runs { columns: 15rem; font-size: 0.9rem; overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  .figure { height: 20rem; }
  tr > :first-child { position: sticky; left: 0; background: var(--paper); }
}
@media print { .table { overflow: visible; } body { max-width: none; } }
"""
)

FIGURE = Template(
    """<section class="panel"><h3>$title</h3><p class="note">$note</p>
<div id="$id" class="figure" role="img" aria-label="$title"></div></section>"""
)

PAGE = Template(
    HEAD
    + """<header>
<h1>$name</h1>
<p class="facts">$facts</p>
</header>
<main>
<p class="sentence">$sentence</p>

<h2 id="settings">Settings</h2>
<p class="note">Mean over seeds of the plain mean over clients, ± its 95 % interval (Student's t). Accuracies and coverage in %, gain in points over
sending everything. Choose a heading to sort.</p>
<div class="table" tabindex="0" role="region" aria-labelledby="settings">
<table>
<thead><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>

<h2 id="rivals-table">What the gain is held against</h2>
<p class="note">The majority class and the private start need no training. + prior: the server's answers corrected by the client's label shares
(exits.server_prior). Stacked: weighed with the label shares and the device's own opinion (exits.stacking). Overall is with the server's answers as they are, as in the paper.</p>
<div class="table" tabindex="0" role="region" aria-labelledby="rivals-table">
<table>
<thead><tr>$rivals_head</tr></thead>
<tbody>
$rivals
</tbody>
</table>
</div>

<h2>What can be said</h2>
<p class="note">In brackets 95 % intervals, over seeds: the clients of one run share a server. One seed has none.</p>
<ul>
$statements
</ul>

<h2>Figures</h2>
<p class="note">A colour is a setting, with the mean Gini of its clients; choose one to hide it, and again to show it.</p>
<div class="key" role="group" aria-label="Settings in the figures">
$key
</div>
<div class="pair">
$figures
</div>

<h2>Runs</h2>
<ul class="runs">
$runs
</ul>
</main>
<footer class="note">Made by fed-rebel from clients.csv and predictions.parquet of these runs. What is drawn is in figures/*.csv, and the figures as PNG and PDF beside it.</footer>

<script type="application/json" id="data">$data</script>
<script>$plotly</script>
<script>
"use strict";

for (const table of document.querySelectorAll("table")) {
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

const figures = JSON.parse(document.getElementById("data").textContent);
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "star-diamond", "triangle-down", "triangle-left"];

const hidden = new Set();
for (const button of document.querySelectorAll(".key button")) button.addEventListener("click", () => {
  const place = Number(button.dataset.place), wasHidden = hidden.delete(place);
  if (!wasHidden) hidden.add(place);
  button.setAttribute("aria-pressed", String(wasHidden));
  draw();
});

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue("--" + name).trim();
  const axis = (title, suffix, extra) => ({
    title: {text: title}, ticksuffix: suffix === " points" ? "" : suffix, gridcolor: colour("line"), zeroline: suffix === " points",
    zerolinecolor: colour("faint"), fixedrange: true, automargin: true, ...extra,
  });
  for (const figure of figures) {
    const [xTitle, xSuffix] = figure.x, [yTitle, ySuffix] = figure.y;
    const where = "<br>" + xTitle + " %{x}" + xSuffix + ": %{y:.1f}" + ySuffix + "<extra></extra>";
    const traces = figure.series.filter(one => one.kind === "dots" || !hidden.has(one.place)).flatMap(one => {
      const shown = {x: one.x, y: one.y, showlegend: false};
      if (one.kind === "dots") return [{...shown, mode: "markers", customdata: one.about, name: one.name, showlegend: true, cliponaxis: false,
        error_y: {array: one.error, thickness: 1, width: 3}, hovertemplate: "%{customdata}<br>" + one.name + ": %{y:.1f} %<extra></extra>",
        marker: {color: one.colour, size: 9, symbol: SYMBOLS[one.place % SYMBOLS.length]}}];
      if (one.kind === "points") return [{...shown, mode: "markers", customdata: one.about, cliponaxis: false,
        marker: {color: one.colour, size: 7, opacity: 0.8, symbol: SYMBOLS[one.place % SYMBOLS.length] + (one.dash ? "-open" : "")},
        hovertemplate: "%{customdata}" + where}];
      return [
        {x: [...one.x, ...[...one.x].reverse()], y: [...one.high, ...[...one.low].reverse()], fill: "toself", fillcolor: one.colour + "2b",
          line: {width: 0}, mode: "lines", hoverinfo: "skip", showlegend: false},
        {...shown, mode: "lines", line: {color: one.colour, width: 2.5, dash: one.dash ? "dash" : "solid"}, hovertemplate: one.name + where},
      ];
    });
    Plotly.react(figure.id, traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("faint")},
      margin: {l: 48, r: 20, t: 12, b: 44}, legend: {orientation: "h", x: 0, y: -0.15, yanchor: "top"},
      hoverlabel: {bgcolor: colour("raised"), bordercolor: colour("line"), font: {color: colour("ink")}},
      xaxis: figure.ticks ? axis("", "", {tickvals: figure.ticks.map((_, place) => place), ticktext: figure.ticks, showgrid: false}) : axis(xTitle, xSuffix, xSuffix ? {range: [-0.5, 100.5], dtick: 20, zeroline: false} : {zeroline: false}),
      yaxis: axis(yTitle, ySuffix, ySuffix === " points" ? {title: {text: "points"}} : {}),
    }, {responsive: true, displayModeBar: false});
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
</script>
</body>
</html>
"""
)
