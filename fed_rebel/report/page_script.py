"""The page's script: the threshold, what follows from it for every client, and the table of clients.

`page_plots` goes on where it ends and draws what it computes.
"""

# ruff: noqa: E501, RUF001
SCRIPT = r"""
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// ---- The test queries, unpacked when they are first needed: client by client, each client's surest first.

let unpacked = null;
function queries() {
  if (unpacked) return unpacked;
  const packed = data.queries, Labels = packed.width === 1 ? Uint8Array : Uint16Array;
  const score = new Float32Array(bytes(packed.score)), bits = new Uint8Array(bytes(packed.answered));
  const [label, local, remote] = ["label", "local", "remote"].map(name => new Labels(bytes(packed[name])));
  const before = answers => {  // before[j]: how many of the first j queries are answered rightly
    const counts = new Uint32Array(score.length + 1);
    for (let j = 0; j < score.length; j++) counts[j + 1] = counts[j] + (answers[j] === label[j]);
    return counts;
  };
  unpacked = {
    starts: packed.starts, score, label, local, remote, localRight: before(local), remoteRight: before(remote),
    ranked: Float32Array.from(score).sort(), calibrated: j => (bits[j >> 3] >> (j & 7)) & 1,
  };
  return unpacked;
}

function bytes(text) {
  const characters = atob(text), array = new Uint8Array(characters.length);
  for (let i = 0; i < array.length; i++) array[i] = characters.charCodeAt(i);
  return array.buffer;
}

// ---- The threshold: calibrated, or one thing for all clients, at a share in [0, 1] of the queries.

const numbers = values => values.map(value => value === null ? NaN : value);
const fixed = {local: numbers(data.local), remote: numbers(data.remote)};
const MOVING = Object.keys(data.calibrated);
const calibrated = Object.fromEntries(MOVING.map(key => [key, numbers(data.calibrated[key])]));
let now = {kind: "calibrated", rows: calibrated, alone: (client, j) => queries().calibrated(j)};

function setTo(kind, share) {
  if (kind === "calibrated") return {kind, rows: calibrated, alone: (client, j) => queries().calibrated(j)};
  const threshold = kind === "threshold" ? commonThreshold(share) : null;
  const counts = data.clients.map((_, client) => kind === "threshold" ? reaching(client, threshold) : surest(client, share));
  return {kind, share, threshold, rows: measures(counts), alone: (client, j) => j < queries().starts[client] + counts[client]};
}

// The score that the wanted share of all clients' queries reaches.
function commonThreshold(share) {
  const ranked = queries().ranked, count = Math.round(share * ranked.length);
  return count === 0 ? Infinity : count === ranked.length ? -Infinity : ranked[ranked.length - count];
}

// How many of a client's queries have a score >= threshold.
function reaching(client, threshold) {
  const {starts, score} = queries();
  let low = starts[client], high = starts[client + 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (score[middle] >= threshold) low = middle + 1; else high = middle;
  }
  return low - starts[client];
}

// How many queries are a client's wanted share; queries of equal scores are answered together.
function surest(client, share) {
  const {starts, score} = queries(), first = starts[client], end = starts[client + 1];
  let split = first + Math.round(share * (end - first));
  while (split > first && split < end && score[split] === score[split - 1]) split++;
  return split - first;
}

// What clients.csv would say if each client answered its counts[client] surest queries alone.
function measures(counts) {
  const {starts, localRight, remoteRight} = queries(), rows = Object.fromEntries(MOVING.map(key => [key, []]));
  counts.forEach((answered, client) => {
    const first = starts[client], end = starts[client + 1], split = first + answered;
    const right = localRight[split] - localRight[first], sentRight = remoteRight[end] - remoteRight[split];
    const overall = (right + sentRight) / (end - first);
    rows.coverage.push(answered / (end - first));
    rows.local_acc_answered.push(right / answered);
    rows.remote_acc_sent.push(sentRight / (end - split));
    rows.overall_acc.push(overall);
    rows.gain_from_server.push(overall - fixed.local[client]);
    rows.gain.push(overall - fixed.remote[client]);
  });
  return rows;
}

function mean(values) {
  const defined = values.filter(value => !Number.isNaN(value));
  return defined.reduce((sum, value) => sum + value, 0) / defined.length;
}

function deviation(values) {
  const defined = values.filter(value => !Number.isNaN(value)), middle = mean(defined);
  return Math.sqrt(defined.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (defined.length - 1));
}

const percent = value => Number.isFinite(value) ? (100 * value).toFixed(1) : "–";
function points(value) {
  const text = percent(value);
  return text === "–" ? text : Number(text) === 0 ? "0.0" : (value > 0 ? "+" + text : text.replace("-", "−"));
}
const writer = key => key.startsWith("gain") ? points : percent;

// ---- The table: sorted, searched, moved by the threshold.

const table = document.querySelector("table.clients"), body = table.tBodies[0];
const headings = [...table.tHead.rows[1].cells], columns = headings.map(heading => heading.dataset.key);
const rowOf = [...body.rows];  // in the order of data.clients
const places = MOVING.map(key => columns.indexOf(key));
const movingCells = row => places.map(place => row.cells[place]);
const follower = (cell, write) => ({cell, write, text: cell.textContent, value: cell.dataset.value});
const put = (follower, value) => {
  const back = now.kind === "calibrated";  // as it was printed from clients.csv
  follower.cell.textContent = back ? follower.text : follower.write(value);
  if (follower.value !== undefined) follower.cell.dataset.value = back ? follower.value : value;
};
const unsigned = value => percent(value).replace("-", "−");
let followers = null;
const findFollowers = () => ({
  clients: rowOf.map(row => movingCells(row).map((cell, i) => follower(cell, writer(MOVING[i])))),
  mean: movingCells(table.tFoot.rows[0]).map((cell, i) => follower(cell, writer(MOVING[i]))),
  deviation: movingCells(table.tFoot.rows[1]).map((cell, i) => follower(cell, unsigned)),
  tiles: [...document.querySelectorAll(".tiles dd[data-key]")].map(cell => {
    const key = cell.dataset.key, write = writer(key);
    return {key, ...follower(cell, value => write(value) + (write === percent && Number.isFinite(value) ? " %" : ""))};
  }),
});

function writeNumbers() {
  followers ??= findFollowers();
  MOVING.forEach((key, i) => {
    const values = now.rows[key];
    followers.clients.forEach((row, client) => put(row[i], values[client]));
    put(followers.mean[i], mean(values));
    put(followers.deviation[i], deviation(values));
  });
  followers.tiles.forEach(tile => put(tile, mean(now.rows[tile.key])));
  writeMeans();
}

function writeMeans() {
  const {rows} = now, of = key => writer(key)(mean(rows[key]));
  const text = `${described()}. Means: coverage ${of("coverage")} %, local ${of("local_acc_answered")} % of the answered, ` +
    `remote ${of("remote_acc_sent")} % of the sent, overall ${of("overall_acc")} %, ` +
    `gain ${of("gain_from_server")} from the server, ${of("gain")} over remote.`;
  byId("now").textContent = text.replaceAll(" %", "\u00a0%");
}

function described() {
  if (now.kind === "calibrated") return "Calibrated: each client its own threshold";
  const share = `${Math.round(1000 * now.share) / 10} %`;
  if (now.kind === "coverage") return `Every client answers its surest ${share}`;
  if (!Number.isFinite(now.threshold)) return now.threshold > 0 ? "Nothing is answered alone" : "Everything is answered alone";
  const confidence = 1 / (1 + Math.exp(-now.threshold));
  const sure = confidence > 0.9999 ? "over 0.9999" : confidence.toFixed(4);
  const starts = queries().starts, answered = now.rows.coverage.reduce((sum, part, i) => sum + part * (starts[i + 1] - starts[i]), 0);
  const score = now.threshold > 1e30 ? "the highest there is" : now.threshold.toFixed(2).replace("-", "−");
  return `Score ≥ ${score}, confidence ≥ ${sure}: ${percent(answered / starts.at(-1))} % of all queries`;
}

function sort(heading, rising) {
  const place = headings.indexOf(heading);
  const value = row => parseFloat(row.cells[place].dataset.value);
  const undefinedLast = (a, b) => Number.isNaN(a) - Number.isNaN(b);
  const keyed = [...body.rows].map(row => [value(row), row]);
  keyed.sort(([a], [b]) => undefinedLast(a, b) || (rising ? a - b : b - a) || 0);
  body.append(...keyed.map(([, row]) => row));
  headings.forEach(other => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
}
headings.forEach(heading => heading.firstChild.addEventListener("click", () => {
  sort(heading, heading.getAttribute("aria-sort") !== "ascending");
}));

// The place of the column that is called so, else of the first whose name begins so; -1 where there is none.
function columnNamed(name) {
  const called = fits => headings.findIndex((heading, place) => fits(columns[place]) || fits(heading.textContent.toLowerCase()));
  const exactly = called(text => text === name);
  return exactly >= 0 ? exactly : called(text => text.startsWith(name));
}

// A number finds the clients that begin with it; a condition such as gini>0.9 compares what is printed in a column.
function search() {
  const terms = byId("search").value.toLowerCase().replace(/\s*([<>=]+)\s*/g, "$1").split(/\s+/).filter(Boolean);
  const tests = terms.map(term => {
    const [, name, sign, bound] = term.match(/^([a-z_]+)(<=|>=|<|>|=)(-?[\d.]+)$/) || [];
    const named = name ? columnNamed(name) : -1;
    if (named < 0) return row => row.cells[0].textContent.startsWith(term);
    const printed = row => parseFloat(row.cells[named].textContent.replace("−", "-").replace(/[*,]/g, ""));
    const compare = {"<": v => v < bound, ">": v => v > bound, "<=": v => v <= bound, ">=": v => v >= bound, "=": v => v === Number(bound)}[sign];
    return row => compare(printed(row));
  });
  let found = 0;
  for (const row of rowOf) found += !(row.hidden = !tests.every(test => test(row)));
  byId("matches").textContent = terms.length ? `${found} of ${rowOf.length} clients; the mean is of all` : "";
}
byId("search").addEventListener("input", search);

// ---- One client, opened under the table.

let opened = null;
function openClient(client) {
  if (opened !== null) rowOf[opened].removeAttribute("aria-current");
  opened = client;
  rowOf[client].setAttribute("aria-current", "true");
  byId("client").hidden = false;
  byId("client-name").textContent = `Client ${data.clients[client]}`;
  writeClient();
  drawClient();
  byId("client").scrollIntoView({block: "start"});
  byId("client-name").focus({preventScroll: true});
}

function closeClient() {
  const row = rowOf[opened];
  row.removeAttribute("aria-current");
  opened = null;
  byId("client").hidden = true;
  row.cells[0].firstChild.focus();
}

body.addEventListener("click", event => {
  const row = event.target.closest("tr");
  if (row) openClient(Number(row.dataset.place));
});
body.addEventListener("keydown", event => {
  const step = {ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling"}[event.key];
  if (!step) return;
  let row = event.target.closest("tr")[step];
  while (row && row.hidden) row = row[step];
  if (row) row.cells[0].firstChild.focus();
  event.preventDefault();
});
byId("close").addEventListener("click", closeClient);
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && opened !== null) closeClient();
});

function writeClient() {
  const {starts, label, localRight, remoteRight} = queries(), counts = data.counts[opened];
  const first = starts[opened], end = starts[opened + 1];
  const images = counts.reduce((sum, count) => sum + count, 0), held = counts.filter(Boolean).length;
  const threshold = data.byClass[opened] ? "thresholds by class" : `threshold ${scoreText(data.thresholds[opened])} on the score`;
  byId("client-facts").textContent = `${images.toLocaleString("en")} training images of ${held} classes, Gini ${data.gini[opened].toFixed(2)}` +
    (data.labelsEarly ? `; calibrated: ${threshold}` : "");
  const alone = new Map(), sent = new Map();
  for (let j = first; j < end; j++) {
    const side = now.alone(opened, j) ? alone : sent;
    side.set(label[j], (side.get(label[j]) || 0) + 1);
  }
  const total = side => [...side.values()].reduce((sum, count) => sum + count, 0);
  const most = side => [...side].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 5).map(([c, count]) => `${c} (${count})`).join(", ");
  const rows = now.rows, of = key => writer(key)(rows[key][opened]);
  byId("client-sentence").textContent = !data.labelsEarly ? `It sends all of its ${end - first} test queries.` :
    `Of ${end - first} test queries it answers ${total(alone)} alone (${of("coverage")} %` +
    (alone.size ? `; ${of("local_acc_answered")} % of them rightly), most of class ${most(alone)}` : ")") +
    `. It sends ${total(sent)}` + (sent.size ? ` (${of("remote_acc_sent")} % of them are answered rightly), most of class ${most(sent)}` : "") +
    `. Overall ${of("overall_acc")} %: ${of("gain_from_server")} points from the server, ${of("gain")} over sending everything.`;
}

const scoreText = text => text === "inf" ? "∞ (nothing alone)" : text === "-inf" ? "−∞ (everything alone)" : Number(text).toFixed(2).replace("-", "−");

// ---- The slider.

const form = byId("threshold"), slider = byId("share");
const toCalibrated = () => { slider.value = Math.round(100 * mean(calibrated.coverage)); };
let resting = null;
function move() {
  now = setTo(form.elements.kind.value, slider.value / 100);
  if (now.kind === "calibrated") toCalibrated();
  slider.setAttribute("aria-valuetext", described());
  writeNumbers();
  clearTimeout(resting);
  resting = setTimeout(follow, 60);  // the numbers move with the slider, the figures when it rests
}
function settle() {  // an order or a search that rests on moving numbers is made anew once they stand
  const heading = headings.find(heading => heading.hasAttribute("aria-sort"));
  if (heading && MOVING.includes(heading.dataset.key)) sort(heading, heading.getAttribute("aria-sort") === "ascending");
  search();
}
slider.addEventListener("input", () => {
  if (form.elements.kind.value === "calibrated") form.elements.kind.value = "threshold";
  move();
});
form.addEventListener("change", event => {
  if (event.target !== slider) move();
  settle();
});
form.addEventListener("submit", event => event.preventDefault());
"""
