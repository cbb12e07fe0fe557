"""python -m exactnorm.onnx: folds an ONNX file."""

from __future__ import annotations

import argparse
import sys

from exactnorm.onnx import fold_file


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m exactnorm.onnx",
        description="Makes the batch normalizations of an ONNX model parts of the layers around them.",
    )
    parser.add_argument("model", help="the file to read")
    parser.add_argument("--output", "-o", required=True, help="the file to write")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the folded model with the given one")
    arguments = parser.parse_args()
    try:
        report = fold_file(arguments.model, arguments.output, verify=not arguments.no_verify)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
