"""The package as it is installed: examples in its documentation, types, metadata."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import exactnorm
import pytest

# What stubtest says of every class and function that nanobind makes, whatever its stub.
TRUE_OF_ALL_NANOBIND = (
    "disjoint base at runtime|metaclass differs|is not a function$|stub is a staticmethod but runtime is not$"
    r"|__init__ is inconsistent, stub does not have \*args"
)
MODULES = [
    "exactnorm",
    "exactnorm._fold",
    "exactnorm._functions",
    "exactnorm._layer",
    "exactnorm._moments",
    "exactnorm._normalization",
    "exactnorm._running",
    "exactnorm.onnx",
    "exactnorm.torch",
    "exactnorm.torch._convert",
    "exactnorm.torch._fold",
    "exactnorm.torch._fuse",
    "exactnorm.torch._recalibrate",
    "exactnorm.torch.functional",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_everything_public_is_documented():
    for name in exactnorm.__all__:
        value = getattr(exactnorm, name)
        assert value.__doc__ or name in ("active_target", "default_threads"), name


def test_version():
    assert exactnorm.__version__ == importlib.metadata.version("exactnorm")


def test_numpy_is_all_it_requires():
    required = importlib.metadata.requires("exactnorm")
    assert [entry for entry in required if "extra ==" not in entry] == ["numpy>=2.0"]
    assert {entry.rpartition(";")[2].strip() for entry in required if "extra ==" in entry} == {'extra == "onnx"'}
    loaded = "import sys, exactnorm; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "False"


def test_types():
    installed = Path(exactnorm.__file__).parent
    assert (installed / "py.typed").exists()
    assert (installed / "_core.pyi").exists()
    subprocess.run([sys.executable, "-m", "mypy", "--strict", "-p", "exactnorm"], check=True, cwd="/")
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", "exactnorm._core"]
    lines = subprocess.run(command, capture_output=True, text=True, cwd="/").stdout.splitlines()
    assert [line for line in lines if not re.search(TRUE_OF_ALL_NANOBIND, line)] == []
