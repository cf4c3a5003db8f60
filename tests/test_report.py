"""The report: summary, terminal table, and a page that stands on its own."""

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import fed_rebel
from fed_rebel.exits import Outcomes, Target, Thresholds, at_coverage, calibrate, coverage_curve, route
from fed_rebel.exits.rows import client_rows
from fed_rebel.report import clients_table, summarise, write_report
from fed_rebel.report.columns import AT_THRESHOLD, PAGE_COLUMNS
from fed_rebel.report.curves import client_curves, reachable_coverage
from fed_rebel.report.figures import pictures
from fed_rebel.report.page_data import packed
from fed_rebel.report.queries import queries_of
from fed_rebel.report.record import read_run
from fed_rebel.report.rounds import accuracies, read_rounds
from fed_rebel.report.specialisation import local_accuracy, local_share, overlap
from fed_rebel.settings import Settings
from fed_rebel.training.setup import target_of
from partitions import Partition, Shard, gini

CLASSES = 100
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def answers(rng, label, right, present):
    """Labels of which a share `right` is true and the others are drawn from the classes `present`."""
    return np.where(rng.random(label.size) < right, label, rng.choice(present, label.size))


def made_client(rng, client, alpha):
    """The predictions of one client, whose scores tell more or less what is right, and its label counts."""
    prior = np.maximum(rng.dirichlet(np.full(CLASSES, alpha)), 1e-12)
    counts = rng.multinomial(2000, prior / prior.sum())
    present = np.flatnonzero(counts)
    splits = []
    for split, size in (("val", 200), ("test", 400)):
        label = rng.choice(CLASSES, size, p=counts / counts.sum())
        ease = rng.normal(size=size)
        start = answers(rng, label, 0.25 + 0.55 * gini(counts) ** 4, present)
        local = np.where((ease > 0.3) | (rng.random(size) < 0.1), label, start)
        score = 3 * ease + 2 * (local == label) + rng.normal(size=size)
        remote = answers(rng, label, 1 / (1 + np.exp(-1 - 0.8 * ease)), np.arange(CLASSES))
        prior_remote = np.where(rng.random(size) < 0.6 * gini(counts), label, remote)
        splits.append(
            pd.DataFrame(
                {
                    "client": np.int32(client),
                    "split": split,
                    "image": np.arange(size),
                    "label": label.astype(np.int16),
                    "local_label": local.astype(np.int16),
                    "confidence": (1 / (1 + np.exp(-score))).astype(np.float32),
                    "score": score.astype(np.float32),
                    "remote_label": remote.astype(np.int16),
                    "remote_prior_label": prior_remote.astype(np.int16),
                    "remote_stacked_label": prior_remote.astype(np.int16),
                    "start_label": start,
                }
            )
        )
    return pd.concat(splits), counts


def row_of(client, rows, counts):
    def columns(split, remote):
        part = rows[rows["split"] == split]
        return part["score"], part["local_label"] == part["label"], part[remote] == part["label"]

    score, local, remote = columns("test", "remote_label")
    _, _, prior = columns("test", "remote_prior_label")
    threshold = calibrate(*columns("val", "remote_label"), Target("best"))
    answered = route(score, threshold)
    with_prior = route(score, calibrate(*columns("val", "remote_prior_label"), Target("best")))
    test = rows[rows["split"] == "test"]
    overall, overall_prior = (
        np.where(answered, local, remote).mean(),
        np.where(with_prior, local, prior).mean(),
    )
    fixed = {f"overall_at_{at}": at_coverage(score, local, remote, at / 100) for at in (10, 20, 30, 46, 50, 70, 90)}
    return {
        "client": client,
        "train_size": counts.sum(),
        "val_size": 200,
        "test_size": 400,
        "classes": np.count_nonzero(counts),
        "gini": gini(counts),
        "local_acc": local.mean(),
        "local_acc_answered": local[answered].mean(),
        "remote_acc": remote.mean(),
        "remote_acc_sent": remote[~answered].mean(),
        "overall_acc": overall,
        "coverage": answered.mean(),
        "threshold": threshold,
        "threshold_pooled": client == 3,
        "gain": overall - remote.mean(),
        "local_acc_start": (test["start_label"] == test["label"]).mean(),
        "remote_acc_prior": prior.mean(),
        "majority_acc": counts.max() / counts.sum(),
        "overall_acc_prior": overall_prior,
        "coverage_prior": with_prior.mean(),
        "gain_prior": overall_prior - prior.mean(),
        **fixed,
        "balanced_acc": local.mean() / 2,
    }


def made_run(run: Path, clients: int = 10, alpha: float = 0.1, seed: int = 0) -> Path:
    """A run directory such as a simulation leaves behind, with numbers that hang together."""
    rng = np.random.default_rng(seed)
    run.mkdir(parents=True)
    made = [made_client(rng, client, alpha) for client in range(clients)]
    frame = pd.DataFrame([row_of(client, *parts) for client, parts in enumerate(made)])
    frame.to_csv(run / "clients.csv", index=False)
    predictions = pd.concat([rows for rows, _ in made], ignore_index=True).drop(columns="start_label")
    predictions.to_parquet(run / "predictions.parquet")
    held = [Shard(client, *(np.arange(5) + 5 * client for _ in range(3))) for client in range(clients)]
    Partition(tuple(held), np.arange(1000, 1100), np.stack([counts for _, counts in made])).save(run / "partition.npz")
    (run / "settings.toml").write_text(
        f'seed = {seed}\n[data]\nname = "cifar100"\n'
        f'[partition]\nkind = "by-client"\nalpha = {alpha}\nclients = {clients}\n'
        'classes = 5\nquantity = "log-normal"\n'
    )
    with (run / "rounds.jsonl").open("w") as lines:
        for number, stage in enumerate(["warm-start"] * 2 + ["distill"] * 4 + ["finetune"] * 2, 1):
            for row in frame.to_dict("records"):
                metrics = {name: row[name] - 0.1 / number for name in ("local_acc", "remote_acc", "overall_acc")}
                line = {"round": number, "stage": stage, "client": row["client"], "seconds": 1.0}
                line |= {"bytes_up": 2**20, "bytes_down": 2**21} | (metrics if number != 4 else {})
                lines.write(json.dumps(line) + "\n")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = made_run(tmp_path_factory.mktemp("runs") / "a <b> & $c")
    write_report(directory)
    return directory


class Page(HTMLParser):
    """What a browser would be told to load, the cells of the table of clients, and the text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tables, self.text, self.where = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.where.append(tag)
        self.loads += [attrs[name] for name in ("src", "href", "srcset", "data") if name in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append([attrs.get("data-value"), ""])

    def handle_endtag(self, tag):
        while self.where and self.where.pop() != tag:
            pass

    def handle_data(self, data):
        if {"td", "th"} & set(self.where):
            self.tables[-1][-1][-1][1] += data
        if self.where[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def printed(clients):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(clients_table(clients))
    return console.file.getvalue().splitlines()


def four_clients():
    return pd.DataFrame(
        {
            "client": [0, 1, 2, 3],
            "train_size": [1000, 2000, 3000, 12000],
            "test_size": [100, 100, 100, 700],
            "classes": [3, 4, 5, 8],
            "gini": [0.9, 0.8, 0.7, 0.6],
            "local_acc": [0.5, 0.6, 0.7, 0.8],
            "local_acc_start": [0.4, 0.5, 0.6, 0.7],
            "local_acc_answered": [0.9, np.nan, 0.7, 0.8],
            "remote_acc": [0.6, 0.6, 0.6, 0.6],
            "remote_acc_prior": [0.7, 0.7, 0.7, 0.7],
            "overall_acc": [0.65, 0.55, 0.7, 0.6],
            "coverage": [0.46, 0.0, 1.0, 0.5],
            "gain": [0.05, -0.05, 0.1, 0.0],
            "threshold": [1.5, np.inf, -np.inf, 0.0],
            "threshold_pooled": [False, False, False, True],
        }
    )


def test_the_summary_is_what_one_finds_by_hand():
    summary = summarise(four_clients())
    assert list(summary.columns) == ["weighted", "mean", "sd", "worst_decile"]
    assert summary.loc["local_acc"].tolist() == pytest.approx([0.74, 0.65, np.sqrt(0.05 / 3), 0.5])
    # The client that answered nothing has no accuracy of the answered.
    assert summary.loc["local_acc_answered"].tolist() == pytest.approx([0.8, 0.8, 0.1, 0.7])
    assert summary.loc["gini"].tolist() == pytest.approx([np.nan, 0.75, np.sqrt(0.05 / 3), np.nan], nan_ok=True)
    assert summary.loc["train_size", "mean"] == 4500
    assert not {"client", "threshold", "threshold_pooled"} & set(summary.index)


def test_the_worst_decile_is_a_tenth_of_the_clients_and_at_least_one():
    clients = pd.DataFrame({"test_size": 1, "local_acc": np.arange(40) / 40})
    assert summarise(clients).loc["local_acc", "worst_decile"] == pytest.approx(1.5 / 40)
    assert summarise(clients.tail(1)).loc["local_acc", "worst_decile"] == pytest.approx(39 / 40)


def test_the_terminal_table_shows_every_client_and_fits_80_columns():
    lines = printed(four_clients())
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    headings = "client images classes Gini local at start remote + prior overall coverage gain"
    assert rows["client"] == headings
    assert rows["0"] == "0 1,000 3 0.90 50.0 40.0 60.0 70.0 65.0 46.0 +5.0"
    assert rows["1"].endswith("55.0 0.0 -5.0")
    assert rows["3"] == "3 12,000 8 0.60 80.0 70.0 60.0 70.0 60.0 *50.0 0.0"
    assert rows["mean"] == "mean 4,500 5 0.75 65.0 55.0 60.0 70.0 62.5 49.0 +2.5"
    assert rows["sd"] == "sd 5,066.2 2.2 0.13 12.9 12.9 0.0 0.0 6.5 40.9 6.5"
    assert any("all clients together" in line for line in lines)


def test_a_long_table_stops_at_20_clients_and_says_so():
    clients = pd.concat([four_clients()] * 6, ignore_index=True)
    clients["client"] = range(24)
    lines = printed(clients)
    assert [line.split()[0] for line in lines[3:24]] == [*map(str, range(20)), "..."]
    assert any("... 4 more in clients.csv; mean and sd are of all 24" in line for line in lines)
    assert next(line.split() for line in lines if line.startswith("  mean"))[4] == "65.0"


def table_of_clients(text):
    """The rows of the page's table of clients, as (value, text) by key; then its foot."""
    _, _, *rows = Page(text).tables[0]
    return [dict(zip([column.key for column in PAGE_COLUMNS], row, strict=True)) for row in rows]


def test_the_numbers_on_the_page_are_those_of_the_csv(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    rows = table_of_clients(text)
    with (run / "clients.csv").open() as lines:
        records = list(csv.DictReader(lines))
    assert len(rows) == len(records) + 2
    for row, record in zip(rows, records, strict=False):
        values = {name: float(value) for name, value in record.items() if name != "threshold_pooled"}
        values["gain_from_server"] = values["overall_acc"] - values["local_acc"]
        for column in PAGE_COLUMNS:
            value, shown = row[column.key]
            assert float(value) == pytest.approx(values[column.key], rel=1e-12)
            star = "*" if column.key == "coverage" and record["threshold_pooled"] == "True" else ""
            assert shown == star + column.text(values[column.key]).replace("-", "\N{MINUS SIGN}")
    mean = sum(float(record["overall_acc"]) for record in records) / len(records)
    assert rows[-2]["client"][1] == "mean"
    assert float(rows[-2]["overall_acc"][0]) == pytest.approx(mean)
    summary = {row[0][1]: row[1:] for row in Page(text).tables[1][1:]}
    assert float(summary["overall_acc"][1][0]) == pytest.approx(mean)


def test_the_page_tells_what_was_run_and_what_it_shows(run):
    text = " ".join(" ".join(Page((run / "report.html").read_text(encoding="utf-8")).text).split())
    clients = pd.read_csv(run / "clients.csv")
    assert "a <b> & $c" in text
    assert "cifar100 · partition by-client · alpha 0.1 · log-normal sizes · 10 clients · seed 0" in text
    assert Partition.load(run / "partition.npz").fingerprint in text
    assert f"answer {100 * clients['coverage'].mean():.1f} % of their queries alone" in text
    assert f"gain {100 * clients['gain'].mean():.1f} points over sending everything, and" in text
    from_server = 100 * (clients["overall_acc"] - clients["local_acc"]).mean()
    assert f"gain {from_server:.1f} points over answering everything alone." in text
    assert "quantity = &quot;log-normal&quot;" in (run / "report.html").read_text(encoding="utf-8")


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def test_the_curves_on_the_page_follow_from_the_predictions(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    data = data_of(text)
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[(rows["client"] == 4) & (rows["split"] == "test")]
    local, remote = rows["local_label"] == rows["label"], rows["remote_label"] == rows["label"]
    curve = coverage_curve(rows["score"], local, remote)
    assert data["curves"]["overall"][4][46] == pytest.approx(100 * curve.overall_at(0.46), abs=0.005)
    assert data["curves"]["answered"][4][46] == pytest.approx(100 * curve.local_answered_at(0.46), abs=0.005)
    assert data["curves"]["answered"][4][0] is None
    counts = Partition.load(run / "partition.npz").label_counts[4]
    assert data["counts"][4] == counts.tolist()
    assert [name for name in data["rounds"]["name"] if name.startswith("distill")] == [
        "distill 3",
        "distill 5",
        "distill 6",
    ]


def test_the_page_loads_nothing(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert Page(text).loads == ["data:,"]
    assert not re.search(r"@import|url\((?!data:)", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1])


FIGURES = {
    "label_histograms",
    "label_shares",
    "gain_against_gini",
    "reachable_coverage_against_gini",
    "coverage_curves",
    "local_answers_by_class",
    "overlap_of_clients",
    "accuracy_over_rounds",
}


def test_the_figures_are_pictures_with_their_numbers_and_nothing_is_left_beside(run):
    files = {path.name for path in (run / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf", "csv")}
    for name in FIGURES:
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in run.rglob(".*")]


def test_a_figure_s_csv_has_what_it_shows(run):
    clients = pd.read_csv(run / "clients.csv")
    read = {name: pd.read_csv(run / "figures" / f"{name}.csv") for name in FIGURES}
    gains = read["gain_against_gini"]
    assert gains["gain_from_server"].tolist() == pytest.approx(clients["overall_acc"] - clients["local_acc"], abs=1e-6)
    assert gains["gain"].tolist() == pytest.approx(clients["gain"], abs=1e-6)
    counts = Partition.load(run / "partition.npz").label_counts
    for name in ("label_histograms", "label_shares"):
        for client, rows in read[name].groupby("client"):
            assert rows["share"].sum() == pytest.approx(1, abs=1e-3)
            assert set(rows["class"]) == set(np.flatnonzero(counts[client]))
    assert read["label_histograms"]["images"].sum() == counts.sum()
    by_class = read["local_answers_by_class"].groupby("client").sum()
    assert (by_class["answered"] / by_class["test_queries"]).tolist() == pytest.approx(clients["coverage"])
    assert np.diag(read["overlap_of_clients"].iloc[:, 1:]) == pytest.approx(1)
    assert read["coverage_curves"].groupby("client").size().tolist() == [101] * 10


def test_the_same_run_gives_the_same_figures(run, tmp_path):
    record = read_run(run)
    picture = next(pictures(record, client_curves(record.predictions)))
    picture.write(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (run / "figures" / path.name).read_bytes()


def test_the_queries_are_routed_as_the_csv_was_calibrated(run):
    record = read_run(run)
    queries = record.queries
    for place, (first, end) in enumerate(zip(queries.starts[:-1], queries.starts[1:], strict=True)):
        assert (np.diff(queries.score[first:end]) <= 0).all()
        assert queries.answered[first:end].mean() == record.clients["coverage"][place]


def test_without_an_early_classifier_no_query_is_answered_alone(run):
    predictions, clients = pd.read_parquet(run / "predictions.parquet"), pd.read_csv(run / "clients.csv")
    nobody = predictions.assign(local_label=np.int16(-1), score=np.float32(0))
    exits = {"by_class": True, "target": "coverage:0.5"}
    assert not queries_of(nobody, clients.assign(threshold=np.inf), exits, CLASSES).answered.any()


@pytest.mark.parametrize(("target", "server_prior"), [("best", False), ("coverage:0.4", True), ("delay:0.3", False)])
def test_thresholds_by_class_are_found_again(run, server_prior, target):
    predictions = pd.read_parquet(run / "predictions.parquet")
    kept = [{"client": client} for client in range(10)]
    exits = {"target": target, "server_prior": server_prior, "by_class": True, "device_time": 0.01, "server_time": 0.01}
    exits |= {"bandwidth": 1.0, "round_trip": 0.02}
    calibrated_for = target_of(Settings.from_flat({f"exits.{name}": value for name, value in exits.items()}))
    clients = client_rows(kept, predictions, calibrated_for, server="prior" if server_prior else "plain", by_class=True)
    queries = queries_of(predictions, clients, exits, CLASSES)
    right = np.where(queries.answered, queries.local, queries.remote) == queries.label
    for name, values in (("coverage", queries.answered), ("overall_acc", right)):
        means = [part.mean() for part in np.split(values, queries.starts[1:-1])]
        assert means == pytest.approx(clients[name], rel=1e-12)
    common = queries_of(predictions, clients, exits | {"by_class": False}, CLASSES)
    assert (common.answered != queries.answered).any()


def test_what_clients_know_and_share_by_hand():
    predictions = pd.DataFrame(
        [
            # client, label, local label, score
            (7, 0, 0, 2.0),
            (7, 0, 0, 1.5),
            (7, 1, 0, 1.0),
            (7, 1, 1, 0.5),
            (7, 2, 2, -1.0),
            (9, 0, 0, 3.0),
            (9, 1, 1, 2.0),
            (9, 1, 0, -2.0),
        ],
        columns=["client", "label", "local_label", "score"],
    ).assign(split="test", remote_label=0, remote_prior_label=0)
    clients = pd.DataFrame({"client": [7, 9], "threshold": [0.0, 0.0], "threshold_pooled": False})
    queries = queries_of(predictions, clients, {}, 3)
    nan = np.nan
    np.testing.assert_allclose(local_share(queries), [[1, 1, 0], [1, 0.5, nan]])
    np.testing.assert_allclose(local_accuracy(queries), [[1, 0.5, nan], [1, 1, nan]])
    # Client 7 knows class 0 twice and class 1 once, client 9 each once: min(2/3, 1/2) + min(1/3, 1/2).
    np.testing.assert_allclose(overlap(queries), [[1, 5 / 6], [5 / 6, 1]])
    # Remote is right on 2 of 5. Answering the surest 2, 3, 4, 5 alone gives 2, 2, 3, 4 right: never below.
    # Of client 9's 3, remote is right on 1; alone the device is right on 2.
    assert reachable_coverage(queries).tolist() == [1, 1]


def test_the_reachable_coverage_is_the_largest_that_loses_nothing(run):
    record = read_run(run)
    remote = record.clients["remote_acc"]
    for client, reachable in enumerate(reachable_coverage(record.queries)):
        rows = record.predictions.query(f"client == {client} and split == 'test'")
        outcomes = Outcomes.of(rows)
        measures = [outcomes.measures(Thresholds(score)) for score in rows["score"]]
        coverages = [at["coverage"] for at in measures if at["overall_acc"] >= remote[client] - 1e-12]
        assert reachable == max(coverages, default=0)


def test_the_bands_of_the_rounds_are_quantiles_over_clients(run):
    rounds = read_rounds(run / "rounds.jsonl")
    row = accuracies(rounds).iloc[-1]
    values = rounds[rounds["round"] == row["round"]]["local_acc"]
    assert row["local_acc"] == pytest.approx(values.mean())
    assert [row["local_acc_low"], row["local_acc_high"]] == pytest.approx(np.quantile(values, [0.1, 0.9]))


def test_a_query_takes_ten_bytes_of_the_page(run):
    """Of which 1,000 clients with 1,000 queries each make 10 MB; Plotly takes 4.8 MB, the page may take 25."""
    queries = read_run(run).queries
    parts = packed(queries)
    assert sum(len(part) for part in parts.values() if isinstance(part, str)) < 9.6 * len(queries.score)
    score = np.frombuffer(base64.b64decode(parts["score"]), "<f4")
    np.testing.assert_array_equal(score, queries.score)


def test_images_of_other_classes_are_no_test_queries(run, tmp_path):
    """Splits and columns that are measured beside the shards leave the page as it was."""
    directory = shutil.copytree(run, tmp_path / run.name)
    predictions = pd.read_parquet(directory / "predictions.parquet")
    outside = predictions[predictions["split"] == "test"].assign(split="test_outside", label=99)
    more = pd.concat([outside, predictions, outside.assign(split="val_outside")], ignore_index=True)
    more.assign(remote_stacked_label=0).to_parquet(directory / "predictions.parquet")
    assert write_report(directory).read_bytes() == (run / "report.html").read_bytes()


def browser(page, profile, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-sync", "--no-first-run", f"--user-data-dir={profile}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=8000", "--window-size=1280,9000", "--dump-dom", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


USE = """<script>
const seen = {};
const shown = () => [...document.querySelectorAll(".clients tbody tr")].filter(row => !row.hidden)
  .map(row => [...row.cells].map(cell => [parseFloat(cell.dataset.value), cell.textContent]));
const slide = (kind, share) => {
  document.querySelector(`[value="${kind}"]`).click();
  if (share !== undefined) {
    document.getElementById("share").value = share;
    document.getElementById("share").dispatchEvent(new Event("input", {bubbles: true}));
    document.getElementById("share").dispatchEvent(new Event("change", {bubbles: true}));
  }
  return new Promise(done => setTimeout(done, 200));
};
const until = async there => { while (!there()) await new Promise(done => setTimeout(done, 50)); };
(async () => {
  await until(() => document.getElementById("gain-from-server").data);  // drawn when it comes near
  document.querySelectorAll("[data-key=local_acc] button")[0].click();
  seen.sorted = shown();
  document.querySelectorAll("[data-key=client] button")[0].click();
  await slide("threshold", 40);
  seen.threshold = shown();
  seen.tile = document.querySelector(".tiles [data-key=overall_acc]").textContent;
  seen.points = document.getElementById("gain-from-server").data[0].y;
  await slide("coverage", 46);
  seen.coverage = shown();
  const opener = document.querySelectorAll(".clients tbody button")[4];
  opener.focus();
  opener.click();
  seen.opened = document.getElementById("client").innerText;
  seen.drawn = document.querySelectorAll("#client .js-plotly-plot").length;
  const [bars] = document.getElementById("client-histogram").data;
  seen.histogram = [bars.x, bars.y];
  const total = kind => kind.y.reduce((a, b) => a + b, 0);
  seen.routing = document.getElementById("client-routing").data.map(kind => [kind.name, total(kind)]);
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
  seen.closed = document.getElementById("client").hidden && document.activeElement === opener;
  await slide("calibrated");
  seen.calibrated = shown();
  const search = document.getElementById("search");
  search.value = "gain>0 local<50";
  search.dispatchEvent(new Event("input"));
  seen.found = shown();
  document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
})();
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_draws_sorts_searches_slides_and_opens_a_client(run, tmp_path):
    page = tmp_path / "used.html"
    page.write_text((run / "report.html").read_text(encoding="utf-8").replace("</body>", USE))
    dom = browser(page, tmp_path / "profile")
    assert "CONSOLE" not in dom.stderr
    for figure in FIGURES_OF_THE_PAGE:
        assert re.search(rf'id="{figure}"[^>]*js-plotly-plot', dom.stdout), figure
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom.stdout)[1]))
    record, keys = read_run(run), [column.key for column in PAGE_COLUMNS]
    clients = record.clients

    def column(rows, key):
        return [np.nan if row[keys.index(key)][0] is None else row[keys.index(key)][0] for row in rows]

    assert column(seen["sorted"], "local_acc") == sorted(clients["local_acc"])
    texts = table_of_clients((run / "report.html").read_text(encoding="utf-8"))[:-2]
    assert [[cell[1] for cell in row] for row in seen["calibrated"]] == [
        [cell[1] for cell in row.values()] for row in texts
    ]

    test = {client: Outcomes.of(rows) for client, rows in record.predictions.query("split == 'test'").groupby("client")}
    score = np.sort(record.queries.score)[::-1]
    at_share = {client: np.sort(outcomes.score)[::-1] for client, outcomes in test.items()}
    for kind, thresholds in (
        ("threshold", dict.fromkeys(test, score[round(0.4 * len(score)) - 1])),
        ("coverage", {client: own[round(0.46 * len(own)) - 1] for client, own in at_share.items()}),
    ):
        for place, (client, outcomes) in enumerate(test.items()):
            measures = outcomes.measures(Thresholds(float(thresholds[client])))
            measures["gain_from_server"] = measures["overall_acc"] - outcomes.local.mean()
            for moving in AT_THRESHOLD:
                value, text = seen[kind][place][keys.index(moving.key)]
                assert value == pytest.approx(measures[moving.key], abs=1e-9), (kind, client, moving.key)
                assert abs(float(text.replace("\N{MINUS SIGN}", "-")) - 100 * value) <= 0.0501
    assert seen["tile"] == f"{100 * np.mean(column(seen['threshold'], 'overall_acc')):.1f} %"
    gains = 100 * np.array(column(seen["threshold"], "gain_from_server"))
    assert seen["points"] == pytest.approx(gains)

    counts = record.histograms[4]
    order = sorted(np.flatnonzero(counts), key=lambda label: (-counts[label], label))
    assert "Client 4" in seen["opened"]
    assert "Of 400 test queries it answers 184 alone (46.0 %" in seen["opened"]
    assert seen["drawn"] == 5
    assert seen["histogram"] == [[str(label) for label in order], counts[order].tolist()]
    routed = dict(seen["routing"])
    assert sum(routed.values()) == 400
    assert routed["alone, right"] + routed["alone, wrong"] == 184
    assert seen["closed"]
    found = clients[(clients["gain"] > 0) & (clients["local_acc"].round(3) < 0.5)]["client"]
    assert column(seen["found"], "client") == found.tolist()


FIGURES_OF_THE_PAGE = (
    *("gain-from-server", "gain-over-remote", "answered", "overall", "reachable", "labels", "label-shares"),
    *("class-share", "class-accuracy", "overlap", "rounds"),
)


def without_early_classifier(run):
    """What a run with early.kind = "none" ends with: nothing is labelled early, everything is sent."""
    clients = pd.read_csv(run / "clients.csv")
    clients[["local_acc", "local_acc_start", "local_acc_answered"]] = np.nan
    clients = clients.assign(coverage=0.0, gain=0.0, threshold=np.inf, threshold_pooled=False)
    clients["overall_acc"] = clients["remote_acc_sent"] = clients["remote_acc"]
    clients.to_csv(run / "clients.csv", index=False)
    predictions = pd.read_parquet(run / "predictions.parquet")
    predictions.assign(local_label=0, score=np.float32(-4.6)).to_parquet(run / "predictions.parquet")
    return run


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_run_without_an_early_classifier_has_a_page_without_local_figures(tmp_path):
    directory = without_early_classifier(made_run(tmp_path / "run", clients=3))
    text = write_report(directory).read_text(encoding="utf-8")
    names = {path.stem for path in (directory / "figures").iterdir()}
    assert names == {"label_histograms", "label_shares", "accuracy_over_rounds"}
    assert "There is no early classifier" in text
    assert "nan" not in " ".join(Page(text).text)
    row = table_of_clients(text)[0]
    undefined = [row[key][1] for key in ("local_acc", "local_acc_start", "local_acc_answered", "gain_from_server")]
    assert undefined == ["\N{EN DASH}"] * 4
    assert row["coverage"][1] == "0.0"
    page = tmp_path / "used.html"
    click = "<script>document.querySelector('.clients tbody button').click()</script></body>"
    page.write_text(text.replace("</body>", click))
    dom = browser(page, tmp_path / "profile")
    assert "CONSOLE" not in dom.stderr
    drawn = set(re.findall(r'id="([^"]*)"[^>]*js-plotly-plot', dom.stdout))
    assert drawn == {"labels", "label-shares", "rounds", "client-histogram"}


def test_a_run_without_rounds_or_with_a_torn_last_line_still_has_a_report(tmp_path):
    directory = made_run(tmp_path / "run", clients=2)
    with (directory / "rounds.jsonl").open("a") as lines:
        lines.write('{"round": 9, "stage": "fine')
    assert "finetune 8" in write_report(directory).read_text(encoding="utf-8")
    (directory / "rounds.jsonl").unlink()
    assert "finetune 8" not in write_report(directory).read_text(encoding="utf-8")


def test_a_round_that_was_run_again_counts_once(tmp_path):
    path = tmp_path / "rounds.jsonl"
    rows = [
        {"stage": "distill", "round": 1, "client": client, "local_acc": acc} for client, acc in [(0, 0.1), (1, 0.3)]
    ]
    again = [{**row, "local_acc": 0.5} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + again))
    assert accuracies(read_rounds(path))["local_acc"].tolist() == [0.5]


def without(path):
    path.unlink()


def damaged(path):
    path.write_bytes(b"\x00nothing = [of the kind\n")


def without_a_column(path):
    pd.read_csv(path).drop(columns="gain").to_csv(path)


def without_a_client(path):
    pd.read_parquet(path).query("client > 0").to_parquet(path)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, fault) for name in ("settings.toml", "partition.npz") for fault in (without, damaged)),
        *(("clients.csv", fault) for fault in (without, damaged, without_a_column)),
        *(("predictions.parquet", fault) for fault in (without, damaged, without_a_client)),
    ],
)
def test_an_incomplete_run_is_one_line_that_names_the_file(run, tmp_path, name, fault):
    directory = shutil.copytree(run, tmp_path / "run")
    page = (directory / "report.html").read_bytes()
    fault(directory / name)
    with pytest.raises(ValueError, match=re.escape(str(directory / name))) as error:
        write_report(directory)
    assert "\n" not in str(error.value)
    assert (directory / "report.html").read_bytes() == page


def test_the_report_needs_no_torch():
    code = "import sys, fed_rebel.report, fed_rebel.exits; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_flower_s_app_bundle_can_hold_all_that_a_run_needs():
    """It takes Python, TOML and Markdown alone; weights are looked for where the package is installed."""
    root = Path(fed_rebel.__file__).parent.parent
    packages = [root / name for name in ("fed_rebel", "clients", "strategy", "partitions")]
    files = [file for package in packages for file in package.rglob("*") if file.is_file()]
    left_out = {file.suffix for file in files if "__pycache__" not in file.parts} - {".py", ".toml", ".md"}
    assert left_out <= {".safetensors"}
