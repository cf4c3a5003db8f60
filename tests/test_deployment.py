"""A real deployment, as `examples/deployment/up` makes one: TLS, keys, and nodes that die and come back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_clients import FaultyClients

from fed_rebel.runs import RunDirectory, private_file
from fed_rebel.training.setup import prepare

EXAMPLE = Path(__file__).parent.parent / "examples" / "deployment"
CHANGES = {
    "rounds.warm_start": 0,
    "rounds.finetune": 2,
    "rounds.evaluate_every": 0,
    "report.share": "predictions",
    "engine.timeout": 80.0,
}
DISTILL, LAST = 1, 4

pytestmark = pytest.mark.slow(150)


@pytest.fixture
def environment(data_directory):
    """Of the example's scripts, on ports that are free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        changes = {"PORT": str(one.getsockname()[1]), "OMP_NUM_THREADS": "1", "PATH": path, "FLWR_LOG_LEVEL": "INFO"}
        return os.environ | changes


def stranger(folder, environment, key):
    """What a SuperNode says whose key nobody registered."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", key], check=True)
    command = ["flower-supernode", "--superlink", f"127.0.0.1:{environment['PORT']}", "--max-retries", "1"]
    command += ["--root-certificates", folder / "keys" / "ca.pem", "--auth-supernode-private-key", key]
    command += ["--port", str(int(environment["PORT"]) + 9), "--node-config", "partition-id=1"]
    log = key.with_suffix(".log")
    with log.open("w") as told:  # not a pipe, which a child of it would hold open
        ended = subprocess.run(command, env=environment, stdout=told, stderr=told, timeout=60, check=False)
    return ended.returncode, log.read_text()


def until(true, seconds, up):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        assert up.poll() is None, up.stdout.read()
        time.sleep(0.05)


def test_a_node_dies_in_a_round_and_comes_back_and_the_bytes_are_a_simulation_s(
    environment, tiny_settings, go_on, tmp_path
):
    folder, settings = tmp_path / "deployment", tiny_settings(CHANGES)
    changes = [f"{key}={json.dumps(value)}" for key, value in settings.flat().items()]
    up = subprocess.Popen(
        [EXAMPLE / "up", folder, *changes], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = folder / "logs" / "node-1.log"
    until(lambda: log.exists() and log.read_text().count("Receiving: train message") == 2, 400, up)
    os.killpg(int((folder / "pids" / "node-1").read_text()), signal.SIGKILL)
    subprocess.run([EXAMPLE / "node", folder, "1"], env=environment, check=True)

    status, told = stranger(folder, environment, tmp_path / "stranger")
    assert status != 0
    assert "Failed to activate SuperNode" in told

    told, _ = up.communicate(timeout=400)
    assert up.returncode == 0, told
    rows = [json.loads(line) for line in (folder / "run" / "rounds.jsonl").read_text().splitlines()]
    faults = {(row["round"], row["client"]) for row in rows if "fault" in row}
    assert (DISTILL, 1) in faults
    assert {client for _, client in faults} == {1}
    assert LAST not in {number for number, _ in faults}

    setup = prepare(settings)
    simulated = RunDirectory.create(tmp_path / "simulation", settings, setup.partition, setup.identity)
    go_on(simulated, settings, app=FaultyClients({(number, "train", 1): "raises" for number, _ in faults}))
    for name in ("shared.safetensors", "clients.csv", "predictions.parquet"):
        assert (folder / "run" / name).read_bytes() == (simulated.path / name).read_bytes()
    for client in range(3):
        counts = (folder / "run" / "private" / f"{client}.sha256").read_text()
        (state,) = (folder / f"node-{client}").rglob(f"{counts}.safetensors")
        assert state.read_bytes() == private_file(simulated.path, LAST, client).read_bytes()
        assert state.stem in told
