"""``python -m speed``: measure, and print a table of ratios and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast.bench.training import environment
from speed import anchors, avalanche, heads, importances, large, optimizers, page, penalties, runs, sequences
from speed.rows import Row, text_table
from speed.timing import Setup

BENCHES: dict[str, Callable[[Setup], list[Row]]] = {
    "ewc": penalties.ewc,
    "anastrophic": penalties.anastrophic,
    "paths": penalties.paths,
    "classp": optimizers.classp,
    "dispatcher": penalties.dispatcher,
    "heads": heads.heads,
    "state": large.state_sizes,
    "fisher": importances.importances,
    "sequences": sequences.sequences,
    "anchors": anchors.anchors,
    "runs": runs.runs,
    "competing": runs.competing,
    "avalanche": avalanche.avalanche,
    "large": large.large,
}
_ON_CPU_ALONE = ("large", "avalanche")


def measure(
    names: Sequence[str],
    devices: Sequence[str],
    *,
    quick: bool,
    seconds: float,
    cpu_time: bool = False,
    keep: Callable[[dict[str, object]], None] = lambda found: None,
) -> dict[str, object]:
    """Run some benchmarks and say where: what the JSON file holds.

    Args:
        names: of :data:`BENCHES`.
        devices: such as ``["cpu", "cuda"]``.
        quick: tiny sizes.
        seconds: per comparison.
        cpu_time: count the processor's time on the CPU.
        keep: is given what was found so far after each benchmark.
    """
    rows: list[Row] = []
    where = [environment.describe(device).model_dump() for device in devices]
    result: dict[str, object] = {"environment": where, "quick": quick, "seconds": seconds, "cpu_time": cpu_time}
    for device in devices:
        for name in names:
            if name in _ON_CPU_ALONE and device != "cpu":
                continue
            print(f"[{device}] {name} ...", flush=True)
            found = BENCHES[name](Setup(torch.device(device), quick, seconds, cpu_time and device == "cpu"))
            if found:
                print(text_table(found) + "\n", flush=True)
            rows += found
            result["rows"] = [row.plain() for row in rows]
            keep(result)
    print(text_table(rows))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, write.

    Args:
        arguments: instead of the command line's.
    """
    parser = argparse.ArgumentParser(prog="python -m speed", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; the figures mean nothing"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="per comparison (default 15)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the processor's time, not the time that passed: with --threads 1, for a machine that others use",
    )
    parser.add_argument(
        "--device", action="append", choices=["cpu", "cuda"], help="cpu or cuda (default: both, where there is one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write docs/performance.md from the figures")
    parser.add_argument("--of", type=Path, metavar="FILE", nargs="+", help="make --page of these, and measure nothing")
    asked = parser.parse_args(arguments)
    if asked.of:
        if asked.page is None:
            parser.error("--of makes a page of figures; expected --page FILE, too")
        asked.page.write_text(page.markdown(*(_figures(parser, file) for file in asked.of)))
        return
    devices = asked.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if "cuda" in devices and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has none that PyTorch can use; expected cpu")
    if not asked.seconds > 0:
        parser.error(f"--seconds is {asked.seconds}; expected a number > 0")
    if asked.threads is not None:
        if asked.threads < 1:
            parser.error(f"--threads is {asked.threads}; expected at least 1")
        torch.set_num_threads(asked.threads)

    def keep(found: dict[str, object]) -> None:
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1) + "\n")

    found = measure(
        asked.only or list(BENCHES),
        devices,
        quick=asked.quick,
        seconds=asked.seconds,
        cpu_time=asked.cpu_time,
        keep=keep,
    )
    if not asked.json:
        print("\n" + json.dumps(found))
    if asked.page:
        asked.page.write_text(page.markdown(found))


def _figures(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"--of {file}: {error}; expected what --json wrote")
    if not isinstance(found, dict) or "rows" not in found:
        parser.error(f"--of {file} holds no figures; expected what --json wrote")
    return found


if __name__ == "__main__":
    main()
