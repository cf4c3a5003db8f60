"""Models that leave the project: ONNX and torch.export say what the modules say."""

import json
import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from fed_rebel import early
from fed_rebel.cli import app
from fed_rebel.datasets import augment
from fed_rebel.early import answer
from fed_rebel.exits import Thresholds
from fed_rebel.model.heads import Head1
from fed_rebel.offload import export
from fed_rebel.offload.export import export_device
from fed_rebel.offload.parts import device_part, own_test_images, server_part

CLIENT = 1


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """A client's files, written by the command."""
    out = tmp_path_factory.mktemp("exported")
    ended = CliRunner().invoke(app, ["export", str(finished.run.path), "--client", str(CLIENT), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    names = ["device.onnx", "device.pt2", "server.onnx", "server.pt2", "model.json"]
    assert [line.split("\t")[0] for line in ended.stdout.splitlines()] == [str(out / name) for name in names]
    return out


@pytest.fixture(scope="module")
def expected(finished):
    """What the modules themselves make of the client's test shard, in float32."""
    path = finished.run.path
    images = own_test_images(path, CLIENT)[1].images[:40]
    device, server = device_part(path, CLIENT), server_part(path)
    with torch.no_grad():
        code = device.head1(augment.batch(images, device.normalisation)).mu
        own = answer(device.early.class_scores(code.flatten(1)))
        logits = server.network(device.code(code))
        confidence, label = logits.softmax(1).max(1)
    return {
        "images": images,
        "device": (own.label, own.confidence, own.score, device.code.encode(code)),
        "server": (label, confidence, logits),
    }


def by_onnx(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == list(inputs)
    return session.run(None, inputs)


def by_torch(path, inputs):
    program = torch.export.load(path).module()
    return [output.numpy() for output in program(*map(torch.from_numpy, inputs.values()))]


@pytest.mark.parametrize(("run", "ending"), [(by_onnx, "onnx"), (by_torch, "pt2")])
def test_the_files_give_the_labels_and_confidences_of_the_modules(exported, expected, run, ending):
    label, confidence, score, levels = run(exported / f"device.{ending}", {"images": expected["images"]})
    assert label.tolist() == expected["device"][0].tolist()
    np.testing.assert_allclose(confidence, expected["device"][1], atol=1e-4)
    np.testing.assert_allclose(score, expected["device"][2], atol=1e-3)
    same = levels == expected["device"][3].numpy()
    assert same.mean() > 0.999  # a code on the edge between two levels may go either way
    about = json.loads((exported / "model.json").read_text())
    ends = {name: np.array(about[f"code_{name}"], np.float32) for name in ("low", "high")}
    inputs = {"levels": expected["device"][3].numpy()} | ends
    label, confidence, logits = run(exported / f"server.{ending}", inputs)
    assert label.tolist() == expected["server"][0].tolist()
    np.testing.assert_allclose(confidence, expected["server"][1], atol=1e-4)
    np.testing.assert_allclose(logits, expected["server"][2], atol=1e-3)


@pytest.mark.parametrize("queries", [1, 7])
def test_the_files_take_any_number_of_images(exported, expected, queries):
    images = expected["images"][:queries]
    for label in (by_onnx(exported / "device.onnx", {"images": images})[0], by_torch_device(exported, images)):
        assert label.tolist() == expected["device"][0][:queries].tolist()


def by_torch_device(exported, images):
    return by_torch(exported / "device.pt2", {"images": images})[0]


def test_beside_them_stands_what_a_device_needs_besides(exported, finished):
    about, part = json.loads((exported / "model.json").read_text()), device_part(finished.run.path, CLIENT)
    assert about["client"] == CLIENT
    assert float(about["threshold"]) == part.thresholds.common
    assert about["server_model"] == part.fingerprint.hex()
    assert about["classes"] == list(part.classes)
    np.testing.assert_array_equal(np.array(about["log_label_shares"], np.float32), part.log_shares.numpy())


def test_what_stands_beside_them_is_json_whatever_the_thresholds(finished, tmp_path, monkeypatch):
    thresholds = Thresholds(math.inf, {0: -math.inf, 3: 0.5, 4: math.inf})
    part = replace(device_part(finished.run.path, CLIENT), thresholds=thresholds)
    monkeypatch.setattr(export, "device_part", lambda *_: part)
    for name in ("export_device", "export_server"):
        monkeypatch.setattr(export, name, lambda *_: [])
    export.export(finished.run.path, CLIENT, tmp_path)
    about = json.loads((tmp_path / "model.json").read_text(), parse_constant=pytest.fail)
    assert about["threshold"] == "inf"
    assert about["thresholds_by_label"] == {"0": "-inf", "3": 0.5, "4": "inf"}


def test_the_device_part_of_100_classes_is_under_5_megabytes(finished, tmp_path):
    part = replace(
        device_part(finished.run.path, 0), head1=Head1().eval(), early=early.build("gmc-diag", classes=100, seed=0)
    )
    assert sum(parameter.numel() for parameter in part.early.parameters()) == 695_200
    for written in export_device(part, tmp_path):
        assert written.path.stat().st_size == written.size < 5_000_000


def test_without_onnx_one_line_says_how_to_get_it(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    ended = CliRunner().invoke(app, ["export", str(finished.run.path), "--client", "0", "--out", str(tmp_path)])
    assert ended.exit_code == 2
    assert ended.stderr == "fed-rebel: export: onnx is not installed; pip install 'fed-rebel[export]'\n"


def test_a_classifier_that_is_no_plain_operator_is_refused(finished, tmp_path, monkeypatch):
    part = replace(device_part(finished.run.path, 0), early=early.build("knn", classes=5, seed=0))
    monkeypatch.setattr(export, "device_part", lambda *_: part)
    with pytest.raises(ValueError, match="allowed: gmc-diag, linear"):
        export.export(finished.run.path, 0, tmp_path)
