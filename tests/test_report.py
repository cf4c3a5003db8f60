"""The report: summary, terminal table, and a page that stands on its own."""

import csv
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
from fed_rebel.exits import Target, at_coverage, calibrate, coverage_curve, route
from fed_rebel.report import clients_table, summarise, write_report
from fed_rebel.report.columns import COLUMNS
from fed_rebel.report.rounds import mean_accuracies, read_rounds
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
    assert any("threshold pooled" in line for line in lines)


def test_a_long_table_stops_at_20_clients_and_says_so():
    clients = pd.concat([four_clients()] * 6, ignore_index=True)
    clients["client"] = range(24)
    lines = printed(clients)
    assert [line.split()[0] for line in lines[3:24]] == [*map(str, range(20)), "..."]
    assert any("... 4 more in clients.csv; mean and sd are of all 24" in line for line in lines)
    assert next(line.split() for line in lines if line.startswith("  mean"))[4] == "65.0"


def test_the_numbers_on_the_page_are_those_of_the_csv(run):
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    headings, *rows = page.tables[0]
    assert [" ".join(text.split()) for _, text in headings][-3:] == ["overall", "coverage", "gain"]
    with (run / "clients.csv").open() as lines:
        records = list(csv.DictReader(lines))
    assert len(rows) == len(records) + 2
    for row, record in zip(rows, records, strict=False):
        wanted = [float(record[column.key]) for column in COLUMNS]
        assert [float(value) for value, _ in row] == pytest.approx(wanted, rel=1e-12)
        assert row[4][1] == f"{100 * float(record['local_acc']):.1f}"
    mean = sum(float(record["overall_acc"]) for record in records) / len(records)
    assert rows[-2][0][1] == "mean"
    assert float(rows[-2][8][0]) == pytest.approx(mean)
    summary = {row[0][1]: row[1:] for row in page.tables[1][1:]}
    assert float(summary["overall_acc"][1][0]) == pytest.approx(mean)


def test_the_page_tells_what_was_run_and_what_it_shows(run):
    text = " ".join(" ".join(Page((run / "report.html").read_text(encoding="utf-8")).text).split())
    clients = pd.read_csv(run / "clients.csv")
    assert "a <b> & $c" in text
    assert "cifar100 · partition by-client · alpha 0.1 · log-normal sizes · 10 clients · seed 0" in text
    assert Partition.load(run / "partition.npz").fingerprint in text
    assert f"answer {100 * clients['coverage'].mean():.1f} % of their queries alone" in text
    assert f"gain {100 * clients['gain'].mean():.1f} points over sending everything." in text


def test_the_curves_on_the_page_follow_from_the_predictions(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    rows = pd.read_parquet(run / "predictions.parquet")
    rows = rows[(rows["client"] == 4) & (rows["split"] == "test")]
    local, remote = rows["local_label"] == rows["label"], rows["remote_label"] == rows["label"]
    curve = coverage_curve(rows["score"], local, remote)
    assert data["curves"]["overall"][4][46] == pytest.approx(100 * curve.overall_at(0.46), abs=0.005)
    assert data["curves"]["answered"][4][46] == pytest.approx(100 * curve.local_answered_at(0.46), abs=0.005)
    assert data["curves"]["answered"][4][0] is None
    counts = Partition.load(run / "partition.npz").label_counts[4]
    assert data["counts"][4] == counts.tolist()
    assert data["shares"][4] == pytest.approx(100 * counts / counts.sum(), abs=0.005)
    assert [name for name in data["rounds"]["name"] if name.startswith("distill")] == [
        "distill 3",
        "distill 5",
        "distill 6",
    ]


def test_the_page_loads_nothing(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert Page(text).loads == ["data:,"]
    assert not re.search(r"@import|url\((?!data:)", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1])


def test_the_figures_are_pictures_and_nothing_is_left_beside(run):
    for name in ("label_histograms.png", "coverage_curves.png"):
        assert (run / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in run.rglob(".*")]


def browser(page, profile, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-sync", "--no-first-run", f"--user-data-dir={profile}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=4000", "--dump-dom", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_draws_the_page_without_errors_and_sorts_its_table(run, tmp_path):
    page = tmp_path / "sorted.html"
    click = "<script>document.querySelectorAll('.sortable button')[4].click()</script></body>"
    page.write_text((run / "report.html").read_text(encoding="utf-8").replace("</body>", click))
    seen = browser(page, tmp_path / "profile")
    assert "CONSOLE" not in seen.stderr
    for figure in ("labels", "answered", "overall", "rounds"):
        assert re.search(rf'id="{figure}"[^>]*js-plotly-plot', seen.stdout), figure
    assert seen.stdout.count("main-svg") >= 4
    rows = Page(seen.stdout).tables[0][1:-2]
    shown = [float(row[4][0]) for row in rows]
    assert shown == sorted(pd.read_csv(run / "clients.csv")["local_acc"])


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
    assert mean_accuracies(read_rounds(path))["local_acc"].tolist() == [0.5]


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
