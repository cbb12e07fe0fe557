"""Folding of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from exactnorm._fold_report import FoldReport
from exactnorm.onnx._fold import fold
from exactnorm.onnx._graph import Array, is_large


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Raises ValueError where the file is no ONNX model, OSError where it cannot be read."""
    try:
        return onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - protobuf and onnx have several kinds for hostile files
        raise ValueError(f"model: {path} is not an ONNX model: {type(error).__name__}: {error}") from error


def fold_file(
    path: str | os.PathLike[str], output: str | os.PathLike[str], inputs: Mapping[str, Array] | None = None, *, verify: bool = True
) -> FoldReport:
    """`fold`, of a file into a file. Tensors of external data are read, and written next to the output, as OUTPUT.data, where the
    model is beyond 2 GB. The output appears when it is whole.

    Raises ValueError, and writes nothing, where the file is no ONNX model; OSError where it cannot be read or written.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output: {output.parent} is no folder")
    model = load(path)
    folded, report = fold(model, inputs, verify=verify)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        new = Path(folder, output.name)
        data = f"{output.name}.data"
        has_data = is_large(folded)
        onnx.save_model(folded, new, save_as_external_data=has_data, location=data if has_data else None)
        if Path(folder, data).exists():  # small tensors stay in the model
            os.replace(Path(folder, data), output.parent / data)
        os.replace(new, output)
    return report
