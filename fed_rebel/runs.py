"""The run directory: written as the run goes, resumed from, read by reports.

    <run>/settings.toml, environment.json, partition.npz, warm_start.safetensors, rounds.jsonl,
    <run>/shared.safetensors -> current/shared.safetensors
    <run>/private            -> current/private
    <run>/current            -> rounds/<n>, the last finished round
    <run>/clients.csv, newcomers.csv, predictions.parquet, report.html, figures/   at the end

A round is written into `rounds/<n>` and becomes current by one rename of the link `current`: a kill at any moment
loses at most the round that was running.
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from fed_rebel import files, tensor_file
from fed_rebel.settings import Settings, SettingsError, load
from partitions import Partition


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, settings: Settings, partition: Partition, identity: Mapping[str, str]
    ) -> "RunDirectory":
        """A new run; `identity` is what it must find again to go on.

        Raises `SettingsError` where the directory exists and is not empty, or cannot be written.
        """
        check_new(path)
        run = cls(path.resolve())
        try:
            (run.path / "rounds").mkdir(parents=True)
            partition.save(run.path / "partition.npz")
            environment = {"run": dict(identity)} | _environment()
            files.replace(run.path / "environment.json", json.dumps(environment, indent=2).encode())
            _link(run.path / "shared.safetensors", "current/shared.safetensors")
            _link(run.path / "private", "current/private")
            # Last: a directory without settings is no run.
            files.replace(run.path / "settings.toml", settings.to_toml().encode())
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise SettingsError(f"--out {path}: cannot be written ({error.strerror}); name another place") from None
        return run

    @classmethod
    def open(cls, path: Path) -> tuple["RunDirectory", Settings]:
        """A run that was begun, and its settings. Raises `SettingsError` where there is none."""
        if not (path / "settings.toml").is_file():
            raise SettingsError(f"{path}: no run here (no settings.toml); give the directory of a run")
        return cls(path.resolve()), load(path / "settings.toml")

    def check_same(self, identity: Mapping[str, str]) -> None:
        """Raise `SettingsError` where going on would not end with the bytes of a run that was left alone."""
        path = self.path / "environment.json"
        try:
            begun = dict(json.loads(path.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(f"{path}: does not say what the run was begun with; restore it or begin anew") from None
        for what, here in identity.items():
            if begun.get(what) != here:
                raise SettingsError(
                    f"{self.path}: was begun with {what} = {str(begun.get(what))[:16]}, here it is {here[:16]}; "
                    "go on where they are the same, or begin a new run with its settings.toml"
                )

    @property
    def rounds_done(self) -> int:
        """Rounds that are finished; the next to run has this number."""
        current = self.path / "current"
        return int(os.readlink(current).rsplit("/", 1)[-1]) + 1 if current.is_symlink() else 0

    @property
    def finished(self) -> bool:
        """Whether the final results are there."""
        return (self.path / "clients.csv").is_file()

    def round_path(self, number: int) -> Path:
        """Where a round is written."""
        return self.path / "rounds" / f"{number:04d}"

    def shared(self) -> tensor_file.Tensors:
        """The server's tensors after the last finished round."""
        return tensor_file.read(self.path / "shared.safetensors")

    def memory(self) -> tensor_file.Tensors:
        """What the strategy remembers of the last finished round on the server; empty where it remembers nothing."""
        path = self.path / "current" / "strategy.safetensors"
        return tensor_file.read(path) if path.exists() else {}

    def begin_round(self, number: int) -> None:
        """An empty place for a round's files: whatever an interrupted try of it left is removed."""
        shutil.rmtree(self.round_path(number), ignore_errors=True)
        for part in ("private", "evaluation"):
            (self.round_path(number) / part).mkdir(parents=True)

    def finish_round(
        self,
        number: int,
        shared: tensor_file.Tensors,
        rows: Iterable[Mapping[str, Any]],
        memory: tensor_file.Tensors | None = None,
    ) -> None:
        """Make a round current: its private states, those it left unchanged, the server's tensors, and its rows.

        `memory` is what the strategy remembers of it on the server.
        """
        here, before = self.round_path(number), self.round_path(number - 1)
        for state in (before / "private").glob("*.safetensors"):
            if not (here / "private" / state.name).exists():
                _link_or_copy(state, here / "private" / state.name)
        tensor_file.write(here / "shared.safetensors", shared)
        if memory:
            tensor_file.write(here / "strategy.safetensors", memory)
        self._append_rows(number, rows)
        _link(self.path / "current", f"rounds/{number:04d}")
        shutil.rmtree(before, ignore_errors=True)

    def evaluations(self, number: int) -> tuple[list[dict[str, Any]], pd.DataFrame]:
        """What clients wrote of themselves in a round's evaluation: a record a client, and all predictions."""
        folder = self.round_path(number) / "evaluation"
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        records.sort(key=lambda record: record["client"])
        frames = [pd.read_parquet(folder / f"{record['client']}.parquet") for record in records]
        return records, pd.concat(frames, ignore_index=True)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `rounds.jsonl` of finished rounds."""
        path = self.path / "rounds.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        # A kill can leave a torn last line, or whole rows of the round that it interrupted.
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        return [row for row in whole if row["round"] < self.rounds_done]

    def write_results(
        self, clients: pd.DataFrame, predictions: pd.DataFrame, newcomers: pd.DataFrame | None = None
    ) -> None:
        """`predictions.parquet`, `newcomers.csv` where there are some, then `clients.csv`, whose presence says that the
        run is finished. A newcomer has the columns of a client, and is in none of the other files."""
        if newcomers is not None and len(newcomers):
            files.replace(self.path / "newcomers.csv", newcomers.to_csv(index=False).encode())
        files.replace(self.path / "predictions.parquet", predictions.to_parquet(index=False))
        files.replace(self.path / "clients.csv", clients.to_csv(index=False).encode())

    def _append_rows(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self.path / "rounds.jsonl"
        kept = _lines(self.rows())
        if path.exists() and path.read_text(encoding="utf-8") != kept:
            files.replace(path, kept.encode())  # what an interrupted round left behind goes
        with path.open("a", encoding="utf-8") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())


def check_new(path: Path) -> None:
    """Raise `SettingsError` where a new run cannot have this directory: something is there, or nobody may write."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(f"--out {path}: exists; name a new directory, or go on with: fed-rebel resume {path}")
    above = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "is no folder" if not above.is_dir() else "is not yours to write"
        raise SettingsError(f"--out {path}: cannot be written ({above} {reason}); name another place")


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's or a sweep's directory, which the system lets go of when this process ends.

    Raises `SettingsError` where somebody else holds it. A file system that locks no directories keeps nobody out.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise SettingsError(f"{directory}: another process is at work here; wait for it or stop it") from None
    except OSError:
        pass  # NFS
    try:
        yield
    finally:
        os.close(handle)


def private_file(run: Path, number: int, client: int) -> Path:
    """Where a client's private state of a round is written."""
    return run / "rounds" / f"{number:04d}" / "private" / f"{client}.safetensors"


def _link_or_copy(state: Path, new: Path) -> None:
    try:
        os.link(state, new)
    except OSError:  # a file system without hard links
        shutil.copyfile(state, new)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _link(path: Path, target: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, path)


def _environment() -> dict[str, Any]:
    names = ("fed-rebel", "flwr", "ray", "torch", "torchvision", "numpy", "scipy", "faiss-cpu")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of this checkout; unknown where it is none, or where there is no git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
