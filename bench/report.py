#!/usr/bin/env python3
"""Measures everything that docs/performance.md tells, and writes it, with its plots.

Usage: .venv-bench/bin/python bench/report.py [--quick | --from-results]

All rows are kept in build/bench/results.json; --from-results renders them again without measuring. --quick
does the same on tiny shapes, and writes to build/bench/quick. Prints the table of best and worst ratios.
Exits with 1 if an answer was wrong or a program failed; the document says so too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import report_tables as tables
from report_plan import Plan, Run
from report_plots import draw_all
from report_results import Results, bytes_text

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "bench/performance_template.md"
PLOTS = "performance"
# Parts of what the programs say of rows that they leave out.
REMARKABLE = ["is wrong", "wrong answer", "cannot do this", "left out", "does not run here"]
OPTIONAL_PEERS = frozenset({"libxsmm", "baseline"})
# Processors that the system itself may use.
QUIET = 0.05

TABLES = {
    "goals": tables.goals,
    "best_and_worst": tables.best_and_worst,
    "versions": tables.versions,
    "remarks": tables.remarks,
    "avx2": tables.avx2,
    "table:onednn": tables.onednn,
    "table:fused_relu": tables.fused_relu,
    "table:dense": tables.dense,
    "table:data": tables.data,
    "table:blocked": tables.blocked,
    "table:libxsmm": tables.libxsmm,
    "table:pytorch": tables.pytorch,
    "table:compile": tables.compiled,
    "table:dense_python": tables.dense_python,
    "table:notebook": tables.notebook,
    "table:onnxruntime": tables.onnxruntime,
    "table:moments": tables.moments,
    "table:layers": tables.layers,
    "table:limits": tables.limits,
    "table:other_limits": tables.limits_of_other_layouts,
    "table:growth": tables.growth,
    "table:networks": tables.networks,
    "table:kernels": tables.kernels,
    "table:bytes": tables.bytes_moved,
    "table:baseline": tables.baseline,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    build = ROOT / "build/release"
    parser.add_argument("--exactnorm-bench", type=Path, default=build / "exactnorm_bench")
    parser.add_argument(
        "--library", type=Path, default=build / "exactnorm_driver.so", help="the tests' driver, for the Python peers"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="where rows are kept, if not in build/bench")
    parser.add_argument("--output", type=Path, help="the folder of performance.md, if not docs")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything works")
    mode.add_argument("--from-results", action="store_true", help="render what was measured before")
    return parser.parse_args()


def busy_seconds() -> float:
    """Of all processors since the system started, whoever used them; also what a hypervisor took away."""
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Measurement:
    """Runs the programs, and keeps what they print."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._commands = {
            "exactnorm_bench": [str(arguments.exactnorm_bench)],
            "python_peers": [
                sys.executable, str(ROOT / "bench/python_peers.py"), "--library", str(arguments.library),
            ],
            "moments": [sys.executable, str(ROOT / "bench/moments.py")],
            "layers": [sys.executable, str(ROOT / "bench/layers.py")],
        }  # fmt: skip

    def run(self, run: Run) -> dict[str, Any]:
        start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        done = subprocess.run(
            [*self._commands[run.program], *run.arguments],
            check=False,
            env=os.environ | run.environment,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - start
        result = {
            "subject": run.subject,
            "program": run.program,
            "command": run.text,
            "environment": run.environment,
            "exit_status": done.returncode,
            "remarks": self._remarks(run, done),
            "seconds": seconds,
            # What others use makes times too long: with a thread for each processor, any of them has to wait.
            "processors_used_by_others": max(0.0, (busy_seconds() - busy - own_seconds() + own) / seconds),
            **self._printed(done.stdout),
        }
        self._tell(result)
        return result

    @staticmethod
    def _printed(text: str) -> dict[str, Any]:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return {"header": {}, "rows": []}

    @staticmethod
    def _remarks(run: Run, done: subprocess.CompletedProcess[str]) -> list[str]:
        """The programs say which rows are missing and why; one that fails altogether does so in its last line."""
        lines = done.stderr.strip().splitlines()
        remarks = [line for line in lines if any(word in line for word in REMARKABLE)]
        if done.returncode != 0 and not remarks:
            remarks = [f"`{run.text}` ended with {done.returncode}: {(lines or ['no explanation'])[-1]}"]
        return remarks

    @staticmethod
    def _tell(result: dict[str, Any]) -> None:
        others = result["processors_used_by_others"]
        note = f" (others used {others:.2f} processors)" if others > QUIET else ""
        print(f"{result['seconds']:6.1f} s, {len(result['rows']):3} rows{note}: {result['command']}", file=sys.stderr)
        for remark in result["remarks"]:
            print(f"  {remark}", file=sys.stderr)


def measure(arguments: argparse.Namespace) -> Results:
    built = {path.stem.removeprefix("exactnorm_bench_") for path in arguments.exactnorm_bench.parent.glob("*.so")}
    plan = Plan(arguments.threads, arguments.rounds, arguments.seconds, OPTIONAL_PEERS & built)
    if arguments.quick:
        plan = replace(plan, rounds=1, seconds=0, shapes=["4,16,5,5"], dense_shapes=["8,16"])
    start = time.monotonic()
    measurement = Measurement(arguments)
    runs = [measurement.run(run) for run in plan.runs()]
    print(f"{time.monotonic() - start:6.1f} s in all", file=sys.stderr)
    return Results(datetime.date.today().isoformat(), runs)


def machine(results: Results) -> str:
    header = next(iter(results.headers("exactnorm_bench") + results.headers("python_peers")), {})
    others = [run["processors_used_by_others"] for run in results.runs]
    disturbed = sum(used > QUIET for used in others)
    facts = {
        "measured on": results.date,
        "processor": header.get("cpu"),
        "threads": results.all_threads,
        "instruction set": f"{results.instruction_set} (Highway's {header.get('target')})",
        "last level of cache": bytes_text(header.get("cache_bytes", 0)),
        "Exactnorm": header.get("exactnorm_version"),
        "processors that other programs used meanwhile": (
            f"{max(others):.2f} at most; more than {QUIET} during {disturbed} of {len(others)} runs"
        ),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def render(results: Results, template: str) -> str:
    """Every {{name}} of the template is replaced; an unknown one is an error."""
    makers = TABLES | {"machine": machine}
    return re.sub(r"\{\{([^{}]+)\}\}", lambda match: makers[match[1]](results), template)


def main() -> int:
    arguments = parse_arguments()
    quick_folder = ROOT / "build/bench/quick"
    results_file = arguments.results or (quick_folder if arguments.quick else ROOT / "build/bench") / "results.json"
    output = arguments.output or (quick_folder if arguments.quick else ROOT / "docs")
    if arguments.from_results:
        results = Results.load(results_file)
    else:
        results = measure(arguments)
        results.save(results_file)
    draw_all(results, output / PLOTS)
    (output / "performance.md").write_text(render(results, TEMPLATE.read_text()))
    print(tables.best_and_worst(results))
    return 1 if any(run["exit_status"] for run in results.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
