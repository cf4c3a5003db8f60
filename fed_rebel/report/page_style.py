"""What the pages begin with, and their style sheets: light and dark, from a phone to paper."""
# ruff: noqa: E501

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$name · fed-rebel</title>
<style>$style</style>
</head>
<body>
"""
"""Of a page, a `string.Template` with `name` and `style`."""

BASE = """
:root {
  --paper: #ffffff; --raised: #f6f7f9; --ink: #1d2227; --faint: #5d6672; --line: #e2e5e9;
  --local: #c2500a; --remote: #0072b2; --prior: #00805e; --none: #e4e9f0; --some: #8fc1e3; --most: #08306b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --raised: #1c2026; --ink: #e8eaed; --faint: #9aa3ae; --line: #2d333b;
    --local: #f08c4a; --remote: #56b4e9; --prior: #35c397; --none: #272d36; --some: #24618f; --most: #cfe8fa;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.75rem; font-weight: 600; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 3.5rem 0 0.25rem; font-size: 1.15rem; font-weight: 600; }
p { margin: 0.25rem 0 1rem; max-width: 60rem; }
.facts, .note { color: var(--faint); font-size: 0.875rem; }
.sentence { margin: 1.75rem 0; max-width: 50rem; font-size: 1.3rem; line-height: 1.45; }
.table { overflow: auto; border-block: 1px solid var(--line); }
button { all: unset; cursor: pointer; }
button:hover { color: var(--ink); }
:focus-visible { outline: 2px solid var(--remote); outline-offset: 2px; border-radius: 2px; }
th[aria-sort] { color: var(--ink); }
th[aria-sort="ascending"] button::after { content: " ↑"; }
th[aria-sort="descending"] button::after { content: " ↓"; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; }
footer { margin-top: 3.5rem; }
@media (max-width: 44rem) {
  body { padding-top: 1.5rem; }
  h1 { font-size: 1.4rem; }
  .sentence { font-size: 1.1rem; }
  .pair { grid-template-columns: 1fr; }
}
"""
"""What the page of a run and that over several runs have in common."""
STYLE = (
    BASE
    + """
html { scroll-padding-top: 8rem; }  /* the threshold stays on top */
[hidden] { display: none !important; }
body { max-width: 72rem; }
h3 { margin: 1rem 0 0; font-size: 0.95rem; font-weight: 600; }
.fingerprint { font: 0.8rem ui-monospace, "Liberation Mono", monospace; overflow-wrap: anywhere; }
details { color: var(--faint); font-size: 0.875rem; }
summary { cursor: pointer; }
pre { margin: 0.5rem 0 0; padding: 0.75rem 1rem; overflow: auto; max-height: 24rem; background: var(--raised);
  color: var(--ink); border-radius: 0.5rem; font: 0.8rem/1.45 ui-monospace, "Liberation Mono", monospace;
  column-width: 18rem; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 0 0 0.5rem; background: var(--line);
  border: 1px solid var(--line); border-radius: 0.5rem; overflow: hidden; }
.tiles div { padding: 0.9rem 1rem; background: var(--paper); }
.tiles dt { color: var(--faint); font-size: 0.875rem; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd + dd { color: var(--faint); font-size: 0.8rem; font-weight: 400; line-height: 1.35; }

.threshold { position: sticky; top: 0; z-index: 4; margin: 2rem -0.5rem 0; padding: 0.6rem 0.5rem 0.7rem;
  background: var(--paper); border-bottom: 1px solid var(--line); display: grid; gap: 0.3rem 1.5rem;
  grid-template-columns: auto 1fr; align-items: center; }
.threshold fieldset { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 0; padding: 0; border: 0; font-size: 0.9rem; }
.threshold legend { padding: 0; font-weight: 600; font-size: 0.95rem; }
.threshold fieldset label { cursor: pointer; white-space: nowrap; }
.threshold input { accent-color: var(--remote); margin-inline: 0 0.35rem; }
.slide { display: flex; align-items: center; gap: 0.6rem; font-size: 0.9rem; color: var(--faint); white-space: nowrap; }
.slide input { flex: 1; min-width: 6rem; height: 1.6rem; margin: 0; cursor: pointer; }
.threshold output { grid-column: 1 / -1; font-size: 0.9rem; font-variant-numeric: tabular-nums; }

.search { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.4rem 0.75rem; margin: 0.5rem 0; font-size: 0.9rem; }
.search input { flex: 0 1 20rem; min-width: 0; padding: 0.35rem 0.6rem; font: inherit; color: inherit;
  background: var(--raised); border: 1px solid var(--line); border-radius: 0.35rem; }
.search output { color: var(--faint); }
.tall { max-height: 36rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead { position: sticky; top: 0; z-index: 2; }
thead th, thead td { background: var(--paper); color: var(--faint); font-weight: 500; }
.clients thead th { white-space: pre; vertical-align: bottom; line-height: 1.25; }
.clients thead tr:first-child > * { padding-block: 0.4rem 0.1rem; border-bottom: 0; text-align: center; font-size: 0.8rem; }
.clients thead tr:first-child th { box-shadow: inset 0 -1px var(--line), inset 6px 0 var(--paper), inset -6px 0 var(--paper); }
.clients tbody tr { cursor: pointer; }
tbody tr:hover > *, tbody tr[aria-current] > * { background: var(--raised); }
tbody tr[aria-current] > :first-child { box-shadow: inset 4px 0 var(--remote); font-weight: 600; }
.clients tbody button { padding: 0 0.4rem; text-decoration: underline; text-decoration-color: var(--line);
  text-underline-offset: 0.2em; }
tfoot { position: sticky; bottom: 0; z-index: 2; }
tfoot th, tfoot td { background: var(--raised); }
tfoot tr:first-child > * { border-top: 1px solid var(--line); font-weight: 600; }
tfoot tr:last-child > * { border-bottom: 0; color: var(--faint); font-weight: 400; }
tbody th, .summary thead th:first-child { text-align: left; font-weight: 400; }
.clients tbody th, .clients tfoot th { text-align: right; }
.clients tbody tr:last-child > * { border-bottom: 0; }

.client { margin-top: 1.5rem; padding: 1rem 1.25rem 1.25rem; border: 1px solid var(--line); border-radius: 0.5rem;
  border-left: 4px solid var(--remote); }
.client header { display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; }
.client h2 { margin: 0; }
.client header button { padding: 0.2rem 0.75rem; border: 1px solid var(--line); border-radius: 0.35rem; font-size: 0.875rem; }
.pair > div { min-width: 0; }
.figure { width: 100%; height: 22rem; }
.figure.square { height: min(36rem, 90vw); max-width: 42rem; }
@media (max-width: 44rem) {
  html { scroll-padding-top: 12rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles dd { font-size: 1.3rem; }
  .threshold { grid-template-columns: 1fr; }
  .threshold fieldset { gap: 0.1rem 0.8rem; font-size: 0.85rem; }
  .threshold output, .slide { font-size: 0.8rem; }
  .client { padding-inline: 0.75rem; }
  .figure { height: 18rem; }
  tbody tr > :first-child, tfoot tr > :first-child { position: sticky; left: 0; }
  tbody tr > :first-child { background: var(--paper); }
  .clients thead tr:last-child > :first-child { position: sticky; left: 0; z-index: 1; }
}
@media print {
  .table, .tall, pre { max-height: none; overflow: visible; }
  thead, tfoot, .threshold { position: static; }
  body { max-width: none; }
}
"""
)
"""Of the page of a run."""
