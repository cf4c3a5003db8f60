"""The page's HTML, a `string.Template`. In a Python file because Flower bundles no HTML with an app."""

# ruff: noqa: E501, RUF001
from string import Template

from fed_rebel.report.page_style import HEAD

PAGE = Template(
    HEAD
    + """<header>
<h1>$name</h1>
<p class="facts">$facts<br>partition <span class="fingerprint">$fingerprint</span></p>
<details><summary>All settings</summary><pre tabindex="0">$settings</pre></details>
</header>
<main>
<p class="sentence">$sentence</p>
$newcomers
<dl class="tiles">
$tiles
</dl>
<p class="note">Plain means over the clients, each on its own test shard$corrected.</p>

<form class="threshold" id="threshold"$without>
<fieldset>
<legend>What a client answers alone</legend>
<label><input type="radio" name="kind" value="calibrated" checked autocomplete="off">calibrated</label>
<label><input type="radio" name="kind" value="threshold" autocomplete="off">one threshold</label>
<label><input type="radio" name="kind" value="coverage" autocomplete="off">one coverage</label>
</fieldset>
<div class="slide"><label for="share">nothing</label>
<input type="range" id="share" min="0" max="100" step="0.5" autocomplete="off"
 aria-label="Share of the queries that are answered alone" aria-describedby="how">
<span>everything</span></div>
<output id="now" for="share"></output>
</form>
<p class="note" id="how"$without>A client answers a query alone where the score of its early classifier's label, the log-odds
against all others, reaches a threshold; it sends the others. <i>Calibrated</i>: the run's own thresholds, found on
validation images; the numbers of clients.csv. Moving the slider sets one thing for all clients instead. <i>One
threshold</i>: the same score everywhere, so that of all clients' test queries together the wanted share is answered alone; sure
clients answer more. <i>One coverage</i>: every client answers the wanted share, its surest queries. Tiles, table, the open client and
the points in the figures follow; test labels set no threshold.</p>

<h2 id="clients">Clients</h2>
<p class="note">Accuracies and coverage in %, gains in points. Gain from the server: overall − local accuracy, what a client
gains by sending at all. Gain over remote: overall − remote accuracy, what it gains by not sending everything (<code>gain</code> in
clients.csv). Choose a heading to sort, a client to open it.$pooled</p>
<p class="search"><label for="search">Search</label>
<input type="search" id="search" autocomplete="off" placeholder="12, or gini&gt;0.9 coverage&lt;20"
 aria-describedby="matches"><output id="matches" for="search"></output></p>
<div class="table tall" tabindex="0" role="region" aria-labelledby="clients">
<table class="clients">
<thead><tr>$groups</tr><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
<tfoot>
$foot
</tfoot>
</table>
</div>

<section class="client" id="client" aria-labelledby="client-name" hidden>
<header><h2 id="client-name" tabindex="-1"></h2><button type="button" id="close">Close</button></header>
<p class="note" id="client-facts"></p>
<p id="client-sentence"></p>
<h3>Its training images</h3>
<div id="client-histogram" class="figure" role="img" aria-label="Histogram of the client's training labels"></div>
<div$without>
<h3>What it answers alone and what it sends</h3>
<p class="note">Its test queries by true class, in the order of its training images.</p>
<div id="client-routing" class="figure" role="img" aria-label="Test queries of each class, answered alone or sent, rightly or wrongly"></div>
<h3>Coverage curve</h3>
<p class="note">The line across: where the client is now. Dotted: everything sent.</p>
<div id="client-curve" class="figure" role="img" aria-label="The client's accuracies against its coverage"></div>
<div class="pair">
<div><h3>What its early classifier takes for what</h3>
<p class="note">All its test queries; a row sums to 100 %.</p>
<div id="client-confusion" class="figure" role="img" aria-label="Confusion matrix of the early classifier on all test queries"></div></div>
<div><h3>Of these, answered alone</h3>
<p class="note">What reaches a user without the server.</p>
<div id="client-confusion-alone" class="figure" role="img" aria-label="Confusion matrix of the queries answered alone"></div></div>
</div>
</div>
</section>

<div$without>
<h2>Gain and skew</h2>
<p class="note">A point a client, at the thresholds set above. Choose a point to open its client.</p>
<div class="pair">
<div><h3>Gain from the server: overall − local</h3>
<div id="gain-from-server" class="figure" role="img" aria-label="Gain from the server against the Gini index"></div></div>
<div><h3>Gain over sending everything: overall − remote</h3>
<div id="gain-over-remote" class="figure" role="img" aria-label="Gain over remote accuracy against the Gini index"></div></div>
</div>

<h2>Coverage</h2>
<p class="note">From everything sent (0 %) to everything answered on the device (100 %). Thin: a client. Thick: their mean.
Dots: where the clients are now.</p>
<div class="pair">
<div><h3>Local accuracy of the answered queries</h3>
<div id="answered" class="figure" role="img" aria-label="Local accuracy of the answered queries against coverage"></div></div>
<div><h3>Overall accuracy</h3>
<div id="overall" class="figure" role="img" aria-label="Overall accuracy against coverage"></div></div>
</div>
<h3>Coverage reachable without losing overall accuracy</h3>
<p class="note">A point a client: the largest coverage at which overall accuracy is not below remote accuracy, read from its curve on its
test queries. It describes the curve; no threshold was chosen by it.</p>
<div id="reachable" class="figure" role="img" aria-label="Reachable coverage against the Gini index"></div>
</div>

<h2>Labels</h2>
<p class="note">Which classes each client meets: the share of each class in its training shard.</p>
<div id="labels" class="figure per-client" role="img" aria-label="Heat map of the label shares of each client"></div>
<h3>One client's classes after the other, from the largest</h3>
<p class="note">A class has the same colour in every bar, and its number where it has room.</p>
<div id="label-shares" class="figure per-client" role="img" aria-label="The label shares of each client as a stacked bar"></div>

<div$without>
<h2>Specialisation</h2>
<p class="note">At the calibrated thresholds. Blank: the client has no such test queries.</p>
<h3>Share of the queries of a class that the client answers alone</h3>
<div id="class-share" class="figure per-client" role="img" aria-label="Heat map of the share answered alone by client and class"></div>
<h3>Local accuracy on the queries that it answers alone</h3>
<div id="class-accuracy" class="figure per-client" role="img" aria-label="Heat map of local accuracy by client and class"></div>
<h3>Overlap of what clients know</h3>
<p class="note">What a client knows: how the queries that it answers alone and rightly are spread over the classes. The overlap of two clients is the sum,
over the classes, of the smaller of their two shares: 1 where they know the same classes in the same shares, 0 where
they know none in common.</p>
<div id="overlap" class="figure square" role="img" aria-label="Matrix of the overlap of every two clients"></div>
</div>

<section id="rounds-section">
<h2>Rounds</h2>
<p class="note">Plain means over the clients after each evaluated round; the bands reach from the clients' 10 % to their
90 % quantile. $traffic $privacy</p>
<div id="rounds" class="figure" role="img" aria-label="Accuracies after each round"></div>
</section>

<h2 id="summary">Summary</h2>
<p class="note">Over the clients, at the calibrated thresholds. Weighted: by test images. Worst decile: the mean of the lowest
tenth, at least one client. Accuracies and coverage in %, gains in points.</p>
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
<footer class="note">Made by fed-rebel from clients.csv, predictions.parquet and rounds.jsonl of this run. The figures are in
figures/ too, as PNG and PDF, with their numbers as CSV.</footer>

<script type="application/json" id="data">$data</script>
<script type="text/plain" id="plotly">$plotly</script>
<script>
"use strict";
$script
$plots
</script>
</body>
</html>
"""
)
