"""`python -m tests.benchmarks NAME`: the result as JSON on standard output, or as a table.

    text, table        in turns of two seconds: the loop by hand, batchinfer, Ray Data, Daft (steady rows a second)
    defaults, short    whole processes one after the other, from command to finished files
    end-to-end         both of these
    start, plan, memory, checkpoint    what the runner itself costs
    gpu                text on a GPU

    python -m tests.benchmarks text --rounds 3 --into text.json --markdown
    python -m tests.benchmarks short --programs batchinfer,daft --rows 2000 --precision bf16

`--into` puts the rounds behind those that the file has, and what is printed is of all of them; `--rounds 0` only prints.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import costs, machine, rounds
from tests.benchmarks.compare import COMPARISONS
from tests.benchmarks.gpu import gpu

COSTS = {
    "start": (costs.start, 0),
    "plan": (costs.plan, 10_000),
    "memory": (costs.memory, 48_000_000),
    "checkpoint": (costs.checkpoint, 8_000_000),
}
END_TO_END = ("defaults", "short")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=[*COMPARISONS, "end-to-end", *COSTS, "gpu"], nargs="?", default="text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--folder", type=Path, help="for inputs and outputs; inputs are kept for the next call")
    parser.add_argument("--programs", default="", help="which of a comparison, separated by commas")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of text, short and gpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--into", type=Path, metavar="FILE.json", help="keep every round's figures; one file a benchmark"
    )
    parser.add_argument("--markdown", action="store_true", help="print a table in place of JSON")
    parser.add_argument("--device", default="cuda", help="of gpu: cuda, or cpu to try it out")
    chosen = parser.parse_args()
    if chosen.benchmark == "end-to-end" and chosen.into is not None:
        parser.error("--into takes one benchmark: run defaults and short, each into a file of its own")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no program is left standing still
    with tempfile.TemporaryDirectory(prefix="batchinfer-bench-") as temporary:
        folder = (chosen.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.benchmark == "gpu":
            print(json.dumps(gpu(folder, chosen.rows or 12_000, chosen.precision, chosen.threads, chosen.device)))
        elif chosen.benchmark in COSTS:
            function, rows = COSTS[chosen.benchmark]
            print(json.dumps(function(folder, chosen.rows or rows, chosen.rounds)))
        else:
            names = END_TO_END if chosen.benchmark == "end-to-end" else (chosen.benchmark,)
            try:
                print("\n\n".join(compared(name, folder, chosen) for name in names))
            except ValueError as e:
                sys.exit(f"error: {e}")
            except subprocess.CalledProcessError as e:
                sys.exit(f"error: a program failed, and the round doesn't count: {e}")


def compared(name: str, folder: Path, chosen: argparse.Namespace) -> str:
    """Run a comparison's rounds, and give what all of them come to."""
    make, rows = COMPARISONS[name]
    comparison = make(folder, chosen.rows or rows, chosen.precision, chosen.threads)
    wanted = [name for name in chosen.programs.split(",") if name]
    comparison.choose(wanted)
    done = rounds.read(chosen.into) if chosen.into else []
    if chosen.into and chosen.rounds:  # before minutes are spent on a round that can't be kept
        kind = rounds.Round(comparison.name, comparison.conditions, machine.facts(), {}).kind
        rounds.check_kind(chosen.into, done, kind)
    for _ in range(chosen.rounds):
        new = comparison.round(len(done), wanted)
        done = rounds.add(chosen.into, new) if chosen.into else [*done, new]
    made = rounds.summary(done, comparison.baseline, comparison.ours, comparison.seconds)
    return rounds.markdown(made) if chosen.markdown else json.dumps(made)


if __name__ == "__main__":
    main()
