"""The command line, nothing else."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fed_rebel.launch.progress import ProgressDisplay
    from fed_rebel.runs import RunDirectory
    from fed_rebel.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
offload = typer.Typer(
    no_args_is_help=True,
    help="Split inference over a real connection: a device that answers alone or asks the server (docs/offload.md).",
)
app.add_typer(offload, name="offload")


@app.callback()
def about() -> None:
    """Federated ReBEL: clients whose data differ train a small head and an early classifier of their own, and share
    the rest of the network.

    Start with: fed-rebel simulate
    """


SettingsFile = Annotated[Path | None, typer.Argument(help="A TOML file of settings.", show_default=False)]
Preset = Annotated[
    str | None,
    typer.Option(help="demo, cifar100 or paper; demo where neither a file nor a preset is given.", show_default=False),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.", show_default=False),
]


@app.command()
def simulate(
    settings: SettingsFile = None,
    preset: Preset = None,
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory; a new one under runs/ by default.", show_default=False),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray or inline; short for --set engine.kind=...", show_default=False)
    ] = None,
) -> None:
    """Run a federated simulation, print the table of clients, and write the run directory and its report.

    Examples:

        fed-rebel simulate

        fed-rebel simulate --preset cifar100 --set partition.alpha=0.01 --set seed=1 --out runs/skewed
    """
    with _bad_input():
        engine_change = [f"engine.kind={engine}"] if engine else []
        chosen = _settings(settings, preset, [*(changes or ()), *engine_change])
        place = out or _new_run(chosen)
        with _display() as display:
            from fed_rebel.launch.simulation import begin

            run = begin(chosen, place, display)
    _run(run, chosen)


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="The directory of a run that was stopped.")]) -> None:
    """Go on with a run that was stopped, from its last finished round; it ends as if it had not been."""
    with _bad_input():
        from strategy.reopen import reopen

        directory, chosen = reopen(run)
    _run(directory, chosen)


@app.command()
def sweep(
    settings: SettingsFile = None,
    preset: Preset = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,...",
            help="Change a setting; may be repeated. Commas make a grid: KEY=a,b,c; of several keys every combination. "
            "A value that has a comma is quoted; in square brackets one value makes a grid too.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each combination, from the setting seed on.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the runs go; under runs/, named for what is swept, by default.", show_default=False),
    ] = None,
    runs_at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Two where the machine has cores for two, by default.", show_default=False),
    ] = None,
) -> None:
    """Run a grid of settings times seeds, and write the report over all of them.

    The same command again goes on: finished runs are skipped, begun ones go on, failed ones are tried again, and
    another grid adds its runs. The cores are divided over the runs at once; where engine.kind is not set, a run whose
    share is one client at a time is inline, which needs no Ray and gives the same bytes.

    Example: fed-rebel sweep --preset cifar100 --set partition.alpha=0.01,0.1,1 --seeds 3 --out runs/alpha
    """
    with _bad_input():
        from fed_rebel.launch.grid import default_place, make_grid

        chosen = _preset(settings, preset)
        grid = make_grid(settings, chosen, changes or (), seeds)
        place = out or default_place(grid)
        with _display() as display:
            from fed_rebel.launch.sweep import sweep as run_sweep
            from fed_rebel.launch.sweep import swept_in

            grid = make_grid(settings, chosen, changes or (), seeds, swept_in(place))
            failed = run_sweep(grid, place, display, runs_at_once=runs_at_once)
        if len(failed) < len(grid.runs):
            _compare([place], place)
    if failed:
        print(
            f"fed-rebel: {len(failed)} of {len(grid.runs)} runs failed: {', '.join(failed)}; the same command tries "
            "them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs, or of sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the report over several runs goes: into the sweep's directory where one is given, else "
            "into report/ here, by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report of a run, of a sweep, or of several runs side by side, and print its table.

    Example: fed-rebel report runs/local-head runs/shared-head --out comparison
    """
    with _bad_input():
        from fed_rebel.report import is_directory_of_runs
        from fed_rebel.settings import SettingsError

        if len(runs) > 1:
            _compare(runs, out or Path("report"))
        elif is_directory_of_runs(runs[0]):
            _compare(runs, out or runs[0])
        elif out is not None:
            raise SettingsError(f"--out {out}: the report of one run goes into its directory; leave --out away")
        else:
            _report(runs[0])


@app.command("settings")
def print_settings(settings: SettingsFile = None, preset: Preset = None, changes: Changes = None) -> None:
    """Print every setting with what it means and may be, as a TOML file to start from.

    Example: fed-rebel settings --preset cifar100 > mine.toml
    """
    with _bad_input():
        from fed_rebel.settings import explained

        print(explained(_settings(settings, preset, changes)), end="")


@app.command()
def pretrain(
    settings: SettingsFile = None,
    preset: Preset = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Write the weights to this file too.", show_default=False)] = None,
) -> None:
    """Train the base model (base.weights = train) and the pooled warm start (warm_start.weights = pooled).

    Both are kept in the data directory's cache under a name made of their settings, so that simulations with the same
    settings find them; a training that was stopped goes on where it was. With --out what was trained is written there
    too: the warm start where it is pooled, as a file that warm_start.weights takes, else the base model, for
    base.weights.

    Example: fed-rebel pretrain --preset cifar100 --set base.weights=train --set warm_start.weights=pooled
    """
    with _bad_input():
        chosen = _settings(settings, preset, changes)
        with _display() as display:
            from fed_rebel.launch.pretrain import pretrain as run_pretrain

            run_pretrain(chosen, display, out)


@app.command("study")
def run_study(
    settings: SettingsFile = None,
    preset: Preset = None,
    changes: Changes = None,
    out: Annotated[
        Path, typer.Option(help="Where figures and tables go; a study that was stopped goes on there.")
    ] = Path("study"),
    only: Annotated[
        str, typer.Option(help="Parts to make, with commas between them.")
    ] = "fig6,fig7,table1,table2,fig10",
    classifiers: Annotated[
        str, typer.Option(help="Early classifiers to compare; gmc, the full mixture, wants a GPU.")
    ] = "gmc-diag,linear,kmeans,knn",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, from the setting seed on.")] = 1,
    rtt: Annotated[
        float | None, typer.Option(min=0, help="Round trip to the server, in milliseconds.", show_default="20")
    ] = None,
    server_speedup: Annotated[
        float, typer.Option(min=1e-3, help="How much faster the server is than this machine.")
    ] = 55.0,
) -> None:
    """Reproduce the paper's centralised study: one model on the pooled images for each early classifier, with and
    without regularisation, Head Network Distillation, and Kumar et al.; figures 6, 7, 10 and tables I, II.

    Example: fed-rebel study --preset cifar100 --set base.weights=shipped --only fig7,table2 --out study
    """
    with _bad_input(), _display() as display:
        from fed_rebel.study import study

        link = [f"exits.round_trip={rtt / 1000}"] if rtt is not None else []
        made = study(
            _settings(settings, preset, [*(changes or ()), *link]),
            out,
            display,
            only=only.split(","),
            classifiers=classifiers.split(","),
            seeds=seeds,
            server_speedup=server_speedup,
        )
    for name, table in made.items():
        if name in ("classifiers", "thresholds"):
            continue  # rows a seed, long: their files are there to be read
        print(f"\n{name}\n{table.to_string(index=False, float_format=lambda value: f'{value:.3g}')}")
    print(f"\nfigures and tables: {_shown(out.resolve())}")


FinishedRun = Annotated[Path, typer.Argument(help="The directory of a finished run.", show_default=False)]
Client = Annotated[int, typer.Option(min=0, help="Whose Head1 and early classifier.", show_default=False)]
Certificate = Annotated[
    Path | None,
    typer.Option(help="The server's certificate, PEM; by default one made for this machine.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="What devices show, in a file that its owner alone can read; by default FED_REBEL_OFFLOAD_TOKEN, else "
        "one made for this user.",
        show_default=False,
    ),
]


@offload.command("server")
def offload_server(
    run: FinishedRun,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for devices on other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8670,
    certificate: Certificate = None,
    key: Annotated[
        Path | None, typer.Option(help="The certificate's key, PEM, with --certificate.", show_default=False)
    ] = None,
    token_file: TokenFile = None,
) -> None:
    """Serve Head2 and Tail of a run to all its clients' devices, over TLS, until it is stopped.

    Certificate, key and token are made when it first starts, in the directory that it names. For devices on other
    machines copy certificate.pem and token there, never key.pem, or give a certificate of your own.

    Example: fed-rebel offload server runs/skewed
    """
    with _bad_input():
        import signal
        import threading

        from fed_rebel.offload.credentials import folder, of_server
        from fed_rebel.offload.parts import server_part
        from fed_rebel.offload.server import Server

        part, stopped = server_part(run), threading.Event()
        server = Server(part, of_server(certificate, key, token_file), host, port)
        for signals in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signals, lambda *_: stopped.set())
        print(f"serving {run}, model {part.fingerprint.hex()[:12]}, {part.classes} classes, on {host}:{server.port}")
        print(f"certificate: {certificate or folder() / 'certificate.pem'}", flush=True)
        stopped.wait()
        server.stop()


@offload.command("device")
def offload_device(
    run: FinishedRun,
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures of any size; without any the client's own test shard.", show_default=False),
    ] = None,
    *,
    client: Client,
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server is.")] = "localhost:8670",
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds that a batch of 64 may take to be answered.")] = 5,
    when_offline: Annotated[
        str, typer.Option(help="Where the server is away, too slow, or has another model: local or fail.")
    ] = "local",
    keep_prior: Annotated[
        bool,
        typer.Option(
            "--keep-prior",
            help="With exits.server_prior: do not tell the server the client's label shares, but correct its answers "
            "here (four bytes a class and query).",
        ),
    ] = False,
    certificate: Certificate = None,
    token_file: TokenFile = None,
) -> None:
    """Label images as a client's device does: alone where it is sure, else with the server's help.

    Prints a line an image: its name, label, confidence, and who labelled it: device, server, or the device because
    the server could not. With --when-offline fail it ends with status 1 instead.

    Example: fed-rebel offload device runs/skewed --client 3 cat.png dog.jpg
    """
    with _bad_input():
        if when_offline not in ("local", "fail"):
            raise ValueError(f"--when-offline {when_offline}: allowed: local, fail")
        import torch

        from fed_rebel.offload.credentials import of_device
        from fed_rebel.offload.device import Device, read_images
        from fed_rebel.offload.parts import device_part, own_test_images

        credentials, part = of_device(certificate, token_file), device_part(run, client)
        torch.set_num_threads(part.threads)
        if images:
            pixels, names = read_images(images), [str(image) for image in images]
        else:
            places, own = own_test_images(run, client)
            pixels, names = own.images, [f"test/{place}" for place in places]
        told = iter(names)
        with Device(
            part,
            server,
            credentials,
            deadline=deadline,
            when_offline="local" if when_offline == "local" else "fail",
            tell_prior=not keep_prior,
        ) as device:
            for batch in device.label(pixels):
                for image, (label, confidence) in enumerate(zip(batch.label, batch.confidence, strict=True)):
                    print(next(told), part.classes[label], f"{confidence:.3f}", batch.by(image), sep="\t", flush=True)


@offload.command("measure")
def offload_measure(
    run: FinishedRun,
    client: Client = 0,
    batches: Annotated[int, typer.Option(min=1, help="Of 64 images, at each bandwidth and coverage.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where tables and figure go; offload/ in the run's directory by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure the paper's Fig. 10 and network load: device and server as two processes over a link of 1 to 10 Mbit/s
    and 10 ms each way, against whole images and Head Network Distillation, beside what the model of delay says.

    The link is shaped by netem between network namespaces where the machine allows it, else by a proxy.

    Example: fed-rebel offload measure runs/skewed
    """
    with _bad_input():
        from fed_rebel.offload.measure import measure

        place = out or run / "offload"
        found = measure(run, client, place, batches)
        print(f"link: {found.link}\n\ndelay of a batch of 64 [s]")
        print(found.delays.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
        print("\nnetwork load of 100 devices at 25 frames/s [Mbit/s]; connecting with a first frame [bytes a device]")
        print(found.load.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
        print(f"\ntables and figure: {_shown(place.resolve())}")


@app.command("export")
def export_models(
    run: FinishedRun,
    client: Client,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the files go; export/CLIENT in the run's directory by default.", show_default=False),
    ] = None,
) -> None:
    """Write a client's Head1 and early classifier, and the server's Head2 and Tail, as ONNX and as torch.export's .pt2.

    Beside them model.json has what a device needs besides: threshold, code range, class names. The networks are in
    float32, and a code is its posterior's mean.

    Example: fed-rebel export runs/skewed --client 3 --out phone
    """
    with _bad_input():
        from fed_rebel.offload.export import export

        for written in export(run, client, out or run / "export" / str(client)):
            print(f"{written.path}\t{written.size / 1e6:.2f} MB")


def _settings(source: Path | None, preset: str | None, changes: list[str] | None) -> "Settings":
    from fed_rebel.settings import load

    return load(source, changes or (), preset=_preset(source, preset))


def _preset(source: Path | None, preset: str | None) -> str | None:
    """The preset that is meant: `demo` where neither a file nor a preset is given."""
    from fed_rebel.settings import SettingsError

    if source is not None and preset is not None:
        raise SettingsError(f"--preset {preset} and the file {source}: give one of the two")
    return "demo" if source is None and preset is None else preset


@contextmanager
def _bad_input() -> Iterator[None]:
    """Wrong settings, data or files: one line on standard error, exit status 2; a training that fails: 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"fed-rebel: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except RuntimeError as error:
        print(f"fed-rebel: {_one_line(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("fed-rebel: interrupted; the same command goes on where it was", file=sys.stderr)
        raise typer.Exit(130) from None


def _run(directory: "RunDirectory", chosen: "Settings") -> None:
    """Run what is left; a failed run exits 1, an interrupted one 130, and both say how to go on.

    One that another process works on exits 2.
    """
    from fed_rebel.launch.simulation import run
    from fed_rebel.settings import SettingsError

    go_on = f"go on with: fed-rebel resume {_shown(directory.path)}"
    try:
        with _display() as display:
            run(chosen, directory, display)
    except KeyboardInterrupt:
        print(f"fed-rebel: interrupted; {go_on}", file=sys.stderr, flush=True)
        os._exit(130)  # clients that are at work would be waited for
    except SettingsError as error:
        print(f"fed-rebel: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except Exception as error:
        print(f"fed-rebel: the run failed: {_one_line(error)}; {go_on}", file=sys.stderr)
        raise typer.Exit(1) from None
    with _bad_input():
        _report(directory.path)


def _report(run: Path) -> None:
    import pandas as pd
    from rich.console import Console

    from fed_rebel.report import clients_table, privacy, read_rounds, write_report
    from fed_rebel.settings import load

    page = write_report(run)
    console = Console()
    clients = pd.read_csv(run / "clients.csv")
    console.print(clients_table(clients))
    dealt = range(load(run / "settings.toml").partition.members)
    if missing := [str(client) for client in dealt if client not in set(clients["client"])]:
        console.print(f"not measured, see rounds.jsonl: client {', '.join(missing)}", soft_wrap=True, highlight=False)
    if (run / "newcomers.csv").is_file():
        console.print("\nnewcomers, who trained once, after the others")
        console.print(clients_table(pd.read_csv(run / "newcomers.csv")))
    if spent := privacy(read_rounds(run / "rounds.jsonl")):
        console.print(spent, soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {_shown(page)}", soft_wrap=True, highlight=False, markup=False)


def _compare(paths: list[Path], out: Path) -> None:
    from rich.console import Console

    from fed_rebel.report import comparison_table, read_runs, write_comparison

    comparison = write_comparison(read_runs(paths), out)
    console = Console()
    console.print(comparison_table(comparison))
    page = _shown((out / "report.html").resolve())
    console.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)


def _new_run(chosen: "Settings") -> Path:
    name = f"{Path(chosen.data.name).stem}-{chosen.partition.kind}-{chosen.partition.alpha:g}-seed{chosen.seed}"
    numbered = (Path("runs") / f"{name}{suffix}" for suffix in ["", *(f"-{n}" for n in range(2, 10_000))])
    return next(path for path in numbered if not path.exists())


def _shown(path: Path) -> Path:
    """A path as short as it can be told from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _display() -> Iterator["ProgressDisplay"]:
    from rich.console import Console

    import fed_rebel.launch  # noqa: F401 - sets Flower's and Ray's environment before they are imported
    from fed_rebel.launch.progress import ProgressDisplay

    with ProgressDisplay(Console(stderr=True)) as display:
        yield display


def main() -> None:
    """The `fed-rebel` command."""
    from fed_rebel.ending import end_process

    # Else pydantic looks for plugins of its own in every installed package, 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    except SystemExit as ended:
        end_process(ended.code if isinstance(ended.code, int) else 0)


if __name__ == "__main__":
    main()
