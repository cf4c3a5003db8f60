"""The run directory: written as the run goes, resumed from, read by reports.

    <run>/settings.toml, environment.json, partition.npz, warm_start.safetensors, rounds.jsonl,
    <run>/shared.safetensors -> current/shared.safetensors
    <run>/private            -> current/private
    <run>/current            -> rounds/<n>, the last finished round, with sha256.json: the sums of what a resume reads
    <run>/clients.csv, newcomers.csv, predictions.parquet, report.html, figures/   at the end

A round is written into `rounds/<n>` and becomes current by one rename of the link `current`: a kill at any moment
loses at most the round that was running. What a client writes in a round lies in an outbox, a folder of that exchange
alone, and becomes part of the round once the server has its good reply: what a faulty client writes, or one that is
late, never counts. Of a client on a disk of its own there lies the SHA-256 of its private state in the state's place,
and of its evaluation what `report.share` lets go.
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
from uuid import uuid4

import pandas as pd

from fed_rebel import checksums, files, tensor_file
from fed_rebel.checksums import Checksum
from fed_rebel.outbox import PREDICTIONS, RECORD, STATE, STATE_SUM, Outbox
from fed_rebel.settings import Settings, SettingsError, first_difference, load
from partitions import Partition

ROWS = "rounds.jsonl"
SUMS = "sha256.json"
WARM_START = "warm_start.safetensors"
SAME_VERSION = ("fed-rebel", "torch")
"""Packages without which the same version a run does not go on to the same bytes."""
BY_CONTENT = ("data.name", "base.weights")
"""Settings that may name another place where the same lies: a run knows data and base model by their fingerprints."""


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, settings: Settings, partition: Partition, identity: Mapping[str, str]
    ) -> "RunDirectory":
        """A new run; `identity` is what it must find again to go on. It is made beside and appears whole.

        Raises `SettingsError` where the directory exists and is not empty, or cannot be written.
        """
        check_new(path)
        place = path.resolve()
        made = place.with_name(f".{place.name}.new")
        try:
            made.mkdir(parents=True, exist_ok=True)
            with alone(made):
                (made / "rounds").mkdir(exist_ok=True)
                partition.save(made / "partition.npz")
                environment = {
                    "id": uuid4().hex,
                    "run": dict(identity),
                    "settings": settings.flat(),
                    "files": checksums.to_json({"partition.npz": Checksum.of(made / "partition.npz")}),
                }
                files.replace(made / "environment.json", json.dumps(environment | _environment(), indent=2).encode())
                files.replace(made / "settings.toml", settings.to_toml().encode())
                _link(made / "shared.safetensors", "current/shared.safetensors")
                _link(made / "private", "current/private")
                os.rename(made, place)
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            raise SettingsError(f"--out {path}: cannot be written ({error.strerror}); name another place") from None
        return cls(place)

    @classmethod
    def open(cls, path: Path) -> tuple["RunDirectory", Settings]:
        """A run that was begun, and its settings. Raises `SettingsError` where there is none."""
        if not (path / "settings.toml").is_file():
            raise SettingsError(f"{path}: no run here (no settings.toml); give the directory of a run")
        return cls(path.resolve()), load(path / "settings.toml")

    def check_whole(self, settings: Settings) -> None:
        """Raise `SettingsError` where the run is not as it was left: its settings, or a file that going on reads."""
        begun = Settings().flat() | self._begun("settings")
        here = settings.flat() | {key: begun[key] for key in BY_CONTENT}
        if (key := first_difference(here, begun)) is not None:
            raise SettingsError(
                f"{self.path / 'settings.toml'}: {key} = {here.get(key)!r}, the run was begun with "
                f"{begun.get(key)!r}; put that back, or {self._anew}"
            )
        current = self.path / "current"
        begun_rounds = {path.name for path in self.path.glob("rounds/*")} - {self.round_path(0).name}
        if not current.is_symlink() and (current.exists() or begun_rounds):
            raise SettingsError(
                f"{current}: is not the link to the last finished round any more; put it back (cp -a keeps links)"
            )
        for name, written in self._sums().items():
            if trouble := written.trouble(self.path / name, grows=name == ROWS):
                raise SettingsError(f"{self.path / name}: {trouble}; put it back as it was, or {self._anew}")

    def check_same(self, identity: Mapping[str, str]) -> None:
        """Raise `SettingsError` where going on would not end with the bytes of a run that was left alone."""
        begun, versions = self._begun("run"), self._begun("versions")
        was = {name: versions.get(name) for name in SAME_VERSION} | begun
        for what, here in ({name: _version(name) for name in SAME_VERSION} | dict(identity)).items():
            if was.get(what) != here:
                raise SettingsError(
                    f"{self.path}: was begun with {what} = {str(was.get(what))[:16]}, here it is {here[:16]}; "
                    "go on where they are the same, or begin a new run with its settings.toml"
                )

    @property
    def id(self) -> str:
        """The run's name on other machines, where its directory has no meaning; hexadecimal."""
        return str(self._begun("id"))

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
        return tensor_file.read(self.path / "current" / "shared.safetensors")

    def memory(self) -> tensor_file.Tensors:
        """What the strategy remembers of the last finished round on the server; empty where it remembers nothing."""
        path = self.path / "current" / "strategy.safetensors"
        return tensor_file.read(path) if path.exists() else {}

    def begin_round(self, number: int) -> None:
        """An empty place for a round's files: whatever an interrupted try of it left is removed."""
        shutil.rmtree(self.round_path(number), ignore_errors=True)
        for part in ("private", "evaluation"):
            (self.round_path(number) / part).mkdir(parents=True)

    def new_outbox(self, number: int) -> Outbox:
        """For what the clients write in one exchange of a round."""
        return Outbox(self.round_path(number) / f"outbox-{uuid4().hex}")

    def accept(self, number: int, outbox: Outbox, clients: Iterable[int]) -> dict[str, Checksum]:
        """Make what these clients wrote part of the round, and give its sums; what others wrote goes."""
        sums = {}
        for client in clients:
            for written, found in outbox.secured(client).items():
                part = "private" if written.suffix in (STATE, STATE_SUM) else "evaluation"
                now = self.round_path(number) / part / written.name
                os.replace(written, now)
                sums[self._name(now)] = found
        outbox.remove()
        return sums

    def clients(self, number: int) -> list[int]:
        """The clients that have a private state in a round: in one that is not finished those that changed theirs."""
        return sorted(self._states(number))

    @property
    def states_elsewhere(self) -> bool | None:
        """Whether the private states of the last finished round are on the clients' own disks; None before there are
        any."""
        ends = {state.suffix for state in self._states(self.rounds_done - 1).values()}
        return STATE_SUM in ends if ends else None

    def state_sums(self, number: int) -> dict[int, str]:
        """The SHA-256 of the private state that each client has in a round on a disk of its own.

        It is the one accepted in that round, else of the one before it.
        """
        states = self._states(number - 1) | self._states(number)
        return {client: state.read_text() for client, state in states.items() if state.suffix == STATE_SUM}

    def finish_round(
        self,
        number: int,
        shared: tensor_file.Tensors,
        rows: Iterable[Mapping[str, Any]],
        memory: tensor_file.Tensors | None = None,
        accepted: Mapping[str, Checksum] | None = None,
    ) -> None:
        """Make a round current: its private states, those it left unchanged, the server's tensors, and its rows.

        `memory` is what the strategy remembers of it on the server, `accepted` what `accept` gave in the round.
        """
        here = self.round_path(number)
        sums = self._sums() if number else {}
        known = {name: found for name, found in sums.items() if name == WARM_START} | dict(accepted or {})
        changed = self._states(number)
        for client, state in self._states(number - 1).items():
            if client not in changed:
                now = here / "private" / state.name
                _link_or_copy(state, now)
                known[self._name(now)] = sums[self._name(state)]
        tensor_file.write(here / "shared.safetensors", shared)
        if memory:
            tensor_file.write(here / "strategy.safetensors", memory)
        self._append_rows(number, rows)
        self._write_sums(number, known)
        _link(self.path / "current", f"rounds/{number:04d}")
        for old in (self.path / "rounds").iterdir():
            if old != here:
                shutil.rmtree(old, ignore_errors=True)

    def evaluations(self, number: int) -> tuple[list[dict[str, Any]], pd.DataFrame | None]:
        """What there is of clients' evaluations in a round: a record a client, and all predictions.

        Where predictions are None, they stayed with the clients, and a record is the client's row of `clients.csv`.
        """
        folder = self.round_path(number) / "evaluation"
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*{RECORD}")]
        records.sort(key=lambda record: record["client"])
        frames = [folder / f"{record['client']}{PREDICTIONS}" for record in records]
        if not all(frame.exists() for frame in frames) or not frames:
            return records, None
        return records, pd.concat([pd.read_parquet(frame) for frame in frames], ignore_index=True)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `rounds.jsonl` of finished rounds."""
        return [json.loads(line) for line in self._finished_rows().decode().splitlines()]

    def write_results(
        self, clients: pd.DataFrame, predictions: pd.DataFrame | None, newcomers: pd.DataFrame | None = None
    ) -> None:
        """`predictions.parquet` and `newcomers.csv` where there are some, then `clients.csv`, whose presence says that
        the run is finished. A newcomer has the columns of a client, and is in none of the other files."""
        if newcomers is not None and len(newcomers):
            files.replace(self.path / "newcomers.csv", newcomers.to_csv(index=False).encode())
        if predictions is not None:
            files.replace(self.path / "predictions.parquet", predictions.to_parquet(index=False))
        files.replace(self.path / "clients.csv", clients.to_csv(index=False).encode())

    def _states(self, number: int) -> dict[int, Path]:
        """Of each client that has one in a round the private state, or what stands for it."""
        return {int(state.stem): state for state in (self.round_path(number) / "private").glob("*.*")}

    def _finished_rows(self) -> bytes:
        # A kill can leave a torn last line, or whole rows of the round that it interrupted.
        path = self.path / ROWS
        return path.read_bytes()[: self._sums()[ROWS].bytes] if self.rounds_done and path.exists() else b""

    def _append_rows(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        path, kept = self.path / ROWS, self._finished_rows()
        if path.exists() and path.stat().st_size != len(kept):
            files.replace(path, kept)  # what an interrupted round left behind goes
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def _write_sums(self, number: int, known: Mapping[str, Checksum]) -> None:
        """The sums of a round that is about to become current; those that are known are not taken again."""
        here = self.round_path(number)
        read = [path for part in (".", "private", "evaluation") for path in (here / part).glob("*.*")]
        read += [self.path / ROWS, self.path / WARM_START]
        names = {self._name(path): path for path in read if path.is_file()}
        sums = {name: known.get(name) or Checksum.of(path) for name, path in names.items()}
        files.replace(here / SUMS, json.dumps(checksums.to_json(sums), indent=1).encode())

    def _sums(self) -> dict[str, Checksum]:
        """Of every file that going on reads, by its path in the run directory."""
        path = self.path / "current" / SUMS
        try:
            begun = checksums.from_json(self._begun("files"))
            if not self.rounds_done:
                return begun
            return begun | checksums.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError):
            raise SettingsError(
                f"{path.resolve()}: missing or damaged; put it back as it was, or {self._anew}"
            ) from None

    def _begun(self, what: str) -> Any:
        """What `environment.json` says of how the run was begun."""
        path = self.path / "environment.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))[what]
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(f"{path}: does not say what the run was begun with; restore it or begin anew") from None

    @property
    def _anew(self) -> str:
        return f"begin a new run: fed-rebel simulate {self.path / 'settings.toml'}"

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.path))


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


def _link(path: Path, target: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, path)


def _environment() -> dict[str, Any]:
    names = ("fed-rebel", "flwr", "ray", "torch", "torchvision", "numpy", "scipy", "faiss-cpu")
    return {
        "versions": {name: _version(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this checkout; unknown where it is none, or where there is no git.

    Git looks upwards, and above an installed package lies what may be another project's checkout.
    """
    package = Path(__file__).parent
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    if done.returncode:
        return "unknown"
    checkout, commit = done.stdout.strip().rsplit("\n", 1)
    return commit if package.parent.samefile(checkout) else "unknown"
