"""Split inference over real sockets: the labels of the run's own evaluation, and whatever goes wrong on the way."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from fed_rebel import tensor_file
from fed_rebel.cli import app
from fed_rebel.exits import Stack, Thresholds
from fed_rebel.offload import credentials, server
from fed_rebel.offload.batching import Batcher
from fed_rebel.offload.connection import Connection, Unanswered
from fed_rebel.offload.device import Device, hello, look
from fed_rebel.offload.parts import device_part, own_test_images, server_part
from fed_rebel.offload.server import Server
from fed_rebel.offload.wire import Hello, Queries, Welcome

CLIENTS = range(3)


@pytest.fixture(scope="module", autouse=True)
def configuration(tmp_path_factory):
    """A configuration directory of the tests' own, in which certificate, key and token are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.delenv(credentials.TOKEN_VARIABLE, raising=False)
        credentials.of_server()
        yield credentials.folder()


@pytest.fixture(scope="module")
def parts(finished):
    """The server's part of the finished run, and its clients' devices'."""
    return server_part(finished.run.path), [device_part(finished.run.path, client) for client in CLIENTS]


@contextlib.contextmanager
def serving(part, port=0):
    running = Server(part, credentials.of_server(), port=port)
    try:
        yield f"localhost:{running.port}"
    finally:
        running.stop()


@pytest.fixture(scope="module")
def address(parts):
    with serving(parts[0]) as address:
        yield address


@pytest.fixture
def sends_all(parts):
    """Client 0's device, never sure."""
    return replace(parts[1][0], thresholds=Thresholds(np.inf))


@pytest.fixture
def images(finished):
    """Those of client 0's test shard."""
    return own_test_images(finished.run.path, 0)[1].images[:20]


def device(part, address, **options):
    return Device(part, address, credentials.of_device(), **options)


def local_labels(part, images):
    return look(part, images).answer.label.numpy()


def slowed(part, seconds):
    """The server's part, so many seconds slower a batch."""

    class Slow(torch.nn.Module):
        def forward(self, codes):
            time.sleep(seconds)
            return part.network(codes)

    return replace(part, network=Slow())


# The same labels as the run's own evaluation


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("answers", "column", "tell_prior"),
    [
        ("plain", "remote_label", True),
        ("prior", "remote_prior_label", True),
        ("prior", "remote_prior_label", False),
        ("stacked", "remote_stacked_label", True),
    ],
)
def test_device_and_server_label_every_image_as_the_run_did(
    finished, parts, address, client, answers, column, tell_prior
):
    predictions = pd.read_parquet(finished.run.path / "predictions.parquet")
    rows = predictions[(predictions["client"] == client) & (predictions["split"] == "test")]
    table = pd.read_csv(finished.run.path / "clients.csv").set_index("client")
    stack = Stack(*table.loc[client, ["stack_remote", "stack_local", "stack_prior"]])
    part = replace(parts[1][client], server_answers=answers, stack=stack)
    half = rows["score"].sort_values().to_numpy(np.float64)[len(rows) // 2 - 1 :][:2].mean()
    for threshold in (part.thresholds.common, half):  # so that both answer, whatever was calibrated
        part = replace(part, thresholds=Thresholds(threshold))
        places, own = own_test_images(finished.run.path, client)
        assert places.tolist() == rows["image"].tolist()
        with device(part, address, tell_prior=tell_prior) as asked:
            answered = list(asked.label(own.images))
        sent = np.concatenate([batch.sent for batch in answered])
        assert sent.tolist() == (rows["score"] < threshold).tolist()
        expected = rows["local_label"].where(~sent, rows[column])
        assert np.concatenate([batch.label for batch in answered]).tolist() == expected.tolist()
        assert all(batch.offline is None for batch in answered)
        confidence = np.concatenate([batch.confidence for batch in answered])
        # Other batches than those of the evaluation change last bits, more of them in bfloat16.
        np.testing.assert_allclose(confidence[~sent], rows["confidence"].to_numpy()[~sent], atol=1e-3)


def test_the_calibrated_threshold_is_that_of_the_table_of_clients(finished, parts):
    table = pd.read_csv(finished.run.path / "clients.csv")
    assert [part.thresholds.common for part in parts[1]] == table["threshold"].tolist()


def test_the_server_is_told_the_prior_only_where_the_run_uses_it_and_the_client_tells_it(parts):
    part = parts[1][0]
    for answers, tell_prior, wanted, told in (
        ("plain", True, "labels", False),
        ("prior", True, "labels", True),
        ("prior", False, "logits", False),
        ("stacked", True, "logits", False),
    ):
        said = hello(replace(part, server_answers=answers), tell_prior)
        assert (said.wanted, said.log_prior is not None) == (wanted, told)


def test_codes_are_samples_where_the_run_s_are(finished, parts, images, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.run.path, run, symlinks=True)
    text = (run / "settings.toml").read_text()
    (run / "settings.toml").write_text(text.replace('code = "mean"', 'code = "sampled"'))
    assert not np.array_equal(look(device_part(run, 0), images).levels, look(parts[1][0], images).levels)


# A server that is away, slow, busy, started anew, or another


def test_a_server_that_is_away_leaves_the_device_its_own_labels_and_it_says_so(parts, sends_all, images):
    with serving(parts[0]) as gone:
        pass
    with device(sends_all, gone) as asked:
        (batch,) = asked.label(images)
    assert batch.label.tolist() == local_labels(sends_all, images).tolist()
    assert {batch.by(image) for image in range(len(images))} == {"device, server away"}


def test_a_device_that_may_not_answer_in_its_place_fails(parts, sends_all, images):
    with serving(parts[0]) as gone:
        pass
    with (
        device(sends_all, gone, when_offline="fail") as asked,
        pytest.raises(RuntimeError, match="server away; --when-offline local"),
    ):
        list(asked.label(images))


def test_a_device_that_is_sure_of_all_needs_no_server(parts, images):
    sure = replace(parts[1][0], thresholds=Thresholds(-np.inf))
    with device(sure, "localhost:1", when_offline="fail") as asked:
        (batch,) = asked.label(images)
    assert {batch.by(image) for image in range(len(images))} == {"device"}


def test_an_answer_that_comes_after_the_deadline_is_not_waited_for(parts, sends_all, images):
    with serving(slowed(parts[0], 1.0)) as address, device(sends_all, address, deadline=0.3) as asked:
        began = time.monotonic()
        (batch,) = asked.label(images)
        assert time.monotonic() - began < 1.0
    assert batch.offline == "server too slow, over 0.3 s"
    assert batch.label.tolist() == local_labels(sends_all, images).tolist()


def test_a_server_with_another_model_is_not_believed(parts, sends_all, images):
    with serving(replace(parts[0], fingerprint=bytes(32))) as address, device(sends_all, address) as asked:
        (batch,) = asked.label(images)
    assert batch.offline == "server has another model, 000000000000"


def test_a_server_of_another_class_count_is_not_believed(parts, sends_all, images):
    with serving(replace(parts[0], classes=7)) as address, device(sends_all, address) as asked:
        (batch,) = asked.label(images)
    assert "7 classes, 5 here" in batch.offline


def test_more_queries_than_connections_are_turned_away(parts, sends_all, images, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 1)
    with serving(slowed(parts[0], 1.0)) as address, ThreadPoolExecutor() as devices:
        asked = [device(sends_all, address, deadline=10.0) for _ in range(3)]
        told = [batch.offline for (batch,) in devices.map(lambda one: list(one.label(images)), asked)]
        for one in asked:
            one._connection.close()
    assert told.count(None) == 1
    assert set(told) <= {None, "server busy", "server away"}


def test_a_device_that_the_server_forgot_says_hello_again(parts, sends_all, images, monkeypatch):
    monkeypatch.setattr(server, "SESSIONS", 1)
    with serving(parts[0]) as address, device(sends_all, address) as one, device(sends_all, address) as other:
        answered = [next(asked.label(images)) for asked in (one, other, one, other)]
    assert all(batch.offline is None for batch in answered)


def test_a_server_that_is_started_anew_under_load_costs_no_device_its_life_and_gives_no_wrong_label(
    parts, sends_all, images
):
    with serving(parts[0]) as address, device(sends_all, address) as asked:
        remote = next(asked.label(images)).label.tolist()
    local = local_labels(sends_all, images).tolist()
    assert remote != local
    port, stop, seen = int(address.rsplit(":", 1)[1]), threading.Event(), [[] for _ in range(4)]

    def load(own):
        with device(sends_all, address, deadline=2.0) as asked:
            while not stop.is_set():
                own.append(next(asked.label(images)))

    with ThreadPoolExecutor() as devices:
        running = [devices.submit(load, own) for own in seen]
        for _ in range(3):
            with serving(parts[0], port):
                wait_until(grown(seen, lambda batch: batch.offline is None))
            wait_until(grown(seen, lambda batch: batch.offline is not None))
        stop.set()
        for one in running:
            one.result()
    for batch in (batch for own in seen for batch in own):
        assert batch.label.tolist() == (remote if batch.offline is None else local)


def grown(seen, kind):
    """Whether every device has, since now, a batch of that kind."""
    before = [len(own) for own in seen]
    return lambda: all(any(map(kind, own[number:])) for own, number in zip(seen, before, strict=True))


def wait_until(there, deadline=60):
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < deadline
        time.sleep(0.02)


# Who may ask, and what


def test_a_wrong_token_is_refused_and_that_is_no_matter_of_being_offline(sends_all, address, images):
    wrong = credentials.DeviceCredentials(credentials.of_device().certificate, "another-token-of-some-length")
    with Device(sends_all, address, wrong) as asked, pytest.raises(ValueError, match="refuses the token"):
        list(asked.label(images))


def test_a_server_with_another_certificate_is_not_talked_to(parts, sends_all, images, address, tmp_path):
    credentials.make(tmp_path / "other")
    trusted = (tmp_path / "other" / "certificate.pem").read_bytes()
    with Device(sends_all, address, replace(credentials.of_device(), certificate=trusted)) as asked:
        (batch,) = asked.label(images)
    assert batch.offline == "server away"


@pytest.fixture
def raw(address):
    """Send bytes to a method of the server and give its answer, or the status of its refusal."""
    mine = credentials.of_device()
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(mine.certificate))

    def send(method, content, token=mine.token):
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            return channel.unary_unary(f"/{server.SERVICE}/{method}")(content, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name

    yield send
    channel.close()


def test_what_is_no_message_is_refused_and_the_server_goes_on(raw, parts, address, sends_all, images):
    said = hello(sends_all, True).encode()
    session = Welcome.decode(raw("Connect", said)).session
    code = np.zeros((1, 867), np.uint8)
    good = Queries(parts[0].fingerprint, session, code).encode()
    too_many = Queries(parts[0].fingerprint, session, np.zeros((257, 867), np.uint8)).encode()
    rng = np.random.default_rng(0)
    wrong = {
        "INVALID_ARGUMENT": [b"", b"GET / HTTP/1.1", good[:-1], said, *(rng.bytes(n) for n in range(1, 900, 50))],
        "FAILED_PRECONDITION": [good[:3] + b"\x02" + good[4:], Queries(bytes(32), session, code).encode()],
        "NOT_FOUND": [Queries(parts[0].fingerprint, bytes(8), code).encode()],
        "RESOURCE_EXHAUSTED": [too_many, bytes(50_000_000)],
    }
    for status, messages in wrong.items():
        for message in messages:
            assert raw("Ask", message) == status
    assert raw("Connect", good) == "INVALID_ARGUMENT"
    assert raw("Connect", said[:3] + b"\x09" + said[4:]) == "FAILED_PRECONDITION"
    prior = Hello(parts[0].fingerprint, "labels", np.zeros(3), np.ones(3), np.zeros(9, np.float32)).encode()
    assert raw("Connect", prior) == "INVALID_ARGUMENT"
    assert raw("Nothing", said) == "UNIMPLEMENTED"
    for token in ("", "wrong"):
        assert raw("Ask", good, token) == "UNAUTHENTICATED"
    assert isinstance(raw("Ask", good), bytes)
    with device(sends_all, address) as asked:
        assert next(asked.label(images)).offline is None


def test_an_answer_that_is_no_message_is_not_believed(sends_all, images):
    """A server of the right name and token that answers nonsense."""
    mine = credentials.of_server()
    methods = {name: grpc.unary_unary_rpc_method_handler(lambda *_: b"nonsense") for name in ("Connect", "Ask")}
    rogue = grpc.server(ThreadPoolExecutor(1))
    rogue.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(server.SERVICE, methods),))
    port = rogue.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(mine.key, mine.certificate)]))
    rogue.start()
    with device(sends_all, f"localhost:{port}") as asked:
        (batch,) = asked.label(images)
    rogue.stop(0)
    assert batch.offline.startswith("server answers what is not understood")


def test_a_port_that_is_taken_is_one_line(parts, address):
    with pytest.raises(ValueError, match="cannot listen there"):
        Server(parts[0], credentials.of_server(), port=int(address.rsplit(":", 1)[1]))


# Certificate and token


def test_certificate_key_and_token_are_made_once_and_only_their_owner_can_read_the_secrets(configuration, tmp_path):
    assert configuration.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in configuration.iterdir()}
    assert modes == {"certificate.pem": 0o644, "key.pem": 0o600, "token": 0o600}
    assert credentials.of_server() == credentials.of_server()
    credentials.make(tmp_path / "offload")
    assert (tmp_path / "offload" / "token").read_bytes() != (configuration / "token").read_bytes()


def test_secrets_that_others_can_read_or_could_guess_are_refused(tmp_path, configuration, monkeypatch):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o644)
    with pytest.raises(ValueError, match="others can read it; chmod 600"):
        credentials.of_device(token_file=token)
    token.chmod(0o600)
    assert credentials.of_device(token_file=token).token == "0123456789abcdef"
    token.write_text("short")
    with pytest.raises(ValueError, match="16 printable"):
        credentials.of_device(token_file=token)
    with pytest.raises(ValueError, match="--certificate and --key: give both"):
        credentials.of_server(certificate=configuration / "certificate.pem")
    monkeypatch.setenv(credentials.TOKEN_VARIABLE, "from-the-environment")
    assert credentials.of_device().token == credentials.of_server().token == "from-the-environment"
    assert "from-the-environment" not in repr(credentials.of_server())


# Batching


def test_what_comes_while_the_network_works_goes_through_it_together():
    sizes, gate = [], threading.Event()

    def network(codes):
        gate.wait()
        sizes.append(len(codes))
        if codes.min() < 0:
            raise RuntimeError("no such code")
        return 2 * codes

    batcher = Batcher(network, most=8, wait=0.0)
    first = batcher.ask(torch.zeros(1, 1))
    wait_until(first.running)
    asked = [batcher.ask(torch.full((3, 1), float(n))) for n in range(1, 6)]
    asked[1].cancel()
    gate.set()
    for n, logits in enumerate(asked, start=1):
        if n != 2:
            assert logits.result(10).tolist() == [[2 * n]] * 3
    assert sizes == [1, 3, 6, 3] or sum(sizes) == 13
    assert max(sizes) <= 8
    with pytest.raises(RuntimeError, match="no such code"):
        batcher.ask(torch.full((1, 1), -1.0)).result(10)
    assert batcher.ask(torch.ones(1, 1)).result(10).tolist() == [[2]]
    batcher.close()


def test_devices_at_once_get_their_own_answers(parts, address, finished):
    """Clients with ranges of their own, in the same batches of the server."""
    every = [(client, own_test_images(finished.run.path, client)[1].images[:8]) for client in CLIENTS] * 4

    def ask(client, own):
        with device(replace(parts[1][client], thresholds=Thresholds(np.inf)), address) as asked:
            return next(asked.label(own)).label.tolist()

    alone = [ask(*one) for one in every]
    with ThreadPoolExecutor(len(every)) as devices:
        assert list(devices.map(lambda one: ask(*one), every)) == alone


def test_a_connection_can_be_asked_for_its_largest_batch(parts, address, sends_all):
    with Connection(address, credentials.of_device(), hello(sends_all, True), 5, 10.0) as connection:
        assert len(connection.ask(np.zeros((256, 867), np.uint8)).label) == 256
        with pytest.raises(Unanswered):
            connection.ask(np.zeros((257, 867), np.uint8))


# What cannot be served


def changed(finished, tmp_path, old, new):
    run = tmp_path / "run"
    shutil.copytree(finished.run.path, run, symlinks=True)
    text = (run / "settings.toml").read_text()
    assert old in text
    (run / "settings.toml").write_text(text.replace(old, new))
    return run


def test_a_run_without_a_code_to_send_or_with_statistics_of_each_client_is_refused(finished, tmp_path):
    run = changed(finished, tmp_path, 'method = "rebel"', 'method = "fedavg"')
    (run / "settings.toml").write_text((run / "settings.toml").read_text().replace("warm_start = 1", "warm_start = 0"))
    for part in (server_part, lambda path: device_part(path, 0)):
        with pytest.raises(ValueError, match="method = 'fedavg' has no code to send"):
            part(run)
    shutil.rmtree(run)
    run = changed(finished, tmp_path, 'batch_norm = "frozen"', 'batch_norm = "local"')
    state = (run / "private" / "1.safetensors").resolve()
    own = tensor_file.read(state) | {"tail.group3.0.bn1.running_mean": torch.zeros(128)}
    tensor_file.write(state, own)
    with pytest.raises(ValueError, match=r"base\.batch_norm = 'local': client 1 has tail\.group3"):
        device_part(run, 1)


def test_an_unfinished_run_is_refused(stopped):
    with pytest.raises(ValueError, match="not finished"):
        server_part(stopped(2).path)


# The command line


def invoke(*args):
    return CliRunner().invoke(app, ["offload", *map(str, args)])


def test_the_device_prints_a_line_an_image(finished, address, tmp_path):
    from PIL import Image

    _, own = own_test_images(finished.run.path, 1)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, own.images, strict=False):
        Image.fromarray(image).save(file)
    told = invoke("device", finished.run.path, "--client", 1, "--server", address, *files)
    assert told.exit_code == 0, told.output
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(file) for file in files]
    shard = invoke("device", finished.run.path, "--client", 1, "--server", address)
    same = [line.split("\t") for line in shard.stdout.splitlines()]
    assert len(same) == len(own)
    assert [line[1:] for line in lines] == [line[1:] for line in same[:3]]
    assert {line[3] for line in same} <= {"device", "server"}


def test_for_pictures_the_runs_own_images_are_not_read(finished, address, images, tmp_path, monkeypatch):
    from PIL import Image

    Image.fromarray(images[0]).save(tmp_path / "one.png")
    monkeypatch.setattr("fed_rebel.offload.parts.own_test_images", lambda *_: pytest.fail("read"))
    told = invoke("device", finished.run.path, "--client", 0, "--server", address, tmp_path / "one.png")
    assert told.exit_code == 0, told.output


def test_bad_input_is_one_line_and_exit_status_2(finished, address, tmp_path):
    run = finished.run.path
    for told, args in {
        "--client 7": ("device", run, "--client", 7),
        "--when-offline maybe": ("device", run, "--client", 0, "--when-offline", "maybe"),
        "nothing.png": ("device", run, "--client", 0, tmp_path / "nothing.png"),
        "no run here": ("server", tmp_path),
        "cannot listen": ("server", run, "--port", address.rsplit(":", 1)[1]),
        "--key": ("server", run, "--certificate", tmp_path / "none.pem"),
    }.items():
        ended = invoke(*args)
        assert ended.exit_code == 2
        assert len(ended.stderr.splitlines()) == 1
        assert told in ended.stderr


def test_a_device_that_may_not_answer_exits_1(finished, parts):
    with serving(parts[0]) as gone:
        pass
    client = pd.read_csv(finished.run.path / "clients.csv").set_index("client")["coverage"].idxmin()  # it sends most
    options = ("--client", client, "--server", gone, "--when-offline", "fail")
    ended = invoke("device", finished.run.path, *options)
    assert ended.exit_code == 1
    assert ended.stderr == "fed-rebel: server away; --when-offline local lets the device answer\n"


@pytest.mark.slow
def test_a_server_process_that_is_killed_is_survived_and_one_that_is_stopped_ends_with_0(finished, sends_all, images):
    command = [sys.executable, "-m", "fed_rebel.cli", "offload", "server", str(finished.run.path), "--port"]

    def start(port):
        process = subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, text=True, env=os.environ)
        return process, process.stdout.readline().rsplit(":", 1)[1].strip()

    process, port = start(0)
    with device(sends_all, f"localhost:{port}") as asked:
        assert next(asked.label(images)).offline is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert next(asked.label(images)).offline is not None
        process, _ = start(port)
        wait_until(lambda: next(asked.label(images)).offline is None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
