"""Freed memory stays with the process, whatever C library it has."""

import ctypes

import pytest

from fed_rebel.training import allocation


def test_all_three_parameters_are_taken_by_the_c_library(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: type("C", (), {"mallopt": lambda self, *of: asked.append(of)})())
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    allocation.keep_freed_memory()
    assert [parameter for parameter, _ in asked] == [-8, -3, -1]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_without_mallopt_nothing_happens(monkeypatch, platform):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(allocation.sys, "platform", platform)
    allocation.keep_freed_memory()
