"""The program exactnorm-onnx, to which the command `exactnorm` hands over `fold` and `inspect`; also python -m exactnorm.onnx."""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from exactnorm._inspection import checked_path
from exactnorm.onnx import fold_file, inspect, load
from exactnorm.onnx._graph import Array


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        print(arguments.run(arguments))
    except (ValueError, OSError, ImportError) as error:
        print(f"exactnorm {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exactnorm", description="The batch normalizations of an ONNX model.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    folding = commands.add_parser("fold", help="make them parts of the layers around them")
    folding.add_argument("model", help="the file to read")
    folding.add_argument("--output", "-o", required=True, help="the file to write")
    folding.add_argument("--no-verify", action="store_true", help="do not compare the folded model with the given one")
    folding.set_defaults(run=_fold)
    looking = commands.add_parser("inspect", help="look at them: parameters, and the data that reaches them")
    looking.add_argument("model", help="the file to read")
    looking.add_argument("--output", "-o", action="append", default=[], help="a page or JSON to write: .html or .json; may be repeated")
    looking.add_argument(
        "--inputs", "-i", action="append", default=[], metavar="FILE.npz",
        help="a batch for ONNX Runtime: arrays by the names of the model's inputs; may be repeated",
    )  # fmt: skip
    looking.set_defaults(run=_inspect)
    return parser


def _fold(arguments: argparse.Namespace) -> object:
    return fold_file(arguments.model, arguments.output, verify=not arguments.no_verify)


def _inspect(arguments: argparse.Namespace) -> object:
    for output in arguments.output:
        checked_path("output", output)
    found = inspect(load(arguments.model), _batches(arguments.inputs) if arguments.inputs else None)
    found.title = os.fsencode(Path(arguments.model).name).decode("utf-8", "replace")
    for output in arguments.output:
        found.write(output)
    return found


def _batches(paths: Sequence[str]) -> Iterator[dict[str, Array]]:
    for path in paths:
        yield _batch(path)


def _batch(path: str) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"inputs: {path} is no file of arrays: {error}") from error
    raise ValueError(f"inputs: {path} has one array without a name; expected a .npz, with arrays by the names of inputs")


if __name__ == "__main__":
    sys.exit(main())
