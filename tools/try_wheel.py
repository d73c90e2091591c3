"""``make wheel``: build sdist and wheel from what is committed, check them, and use them as somebody else would.

In an environment of their own, outside the repository: first without extras (import, time, what the README shows,
``holdfast doctor``), then with each extra asked for, one after the other in the same environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Extra -> what is done with it, in an empty folder. The first that is asked for is bench, which most others stand on.
TRIED: dict[str, tuple[list[str], ...]] = {
    "bench": (
        ["holdfast", "methods"],
        ["holdfast", "compare", "split-digits", "--methods", "finetune,ewc,classp,joint", "--seeds", "{seeds}"],
    ),
    "adapt": (["python", "-c", "import holdfast.adapt.running, peft, transformers"], ["holdfast", "adapt", "--help"]),
    "peft": (["python", "-c", "import holdfast.integrations.peft"],),
    "transformers": (["python", "-c", "import holdfast.integrations.transformers"],),
    "trl": (["python", "-c", "import trl, holdfast.integrations.transformers"],),
    "lightning": (["python", "-c", "import holdfast.integrations.lightning"],),
    "tensorboard": (["python", "-c", "import tensorboard"],),
    "mlflow": (["python", "-c", "import mlflow"],),
    "ray": (["python", "-c", "import ray, holdfast.bench.jobs.ray"],),
    "wandb": (["python", "-c", "import wandb"],),
    "vision": (["python", "-c", "import timm"],),
}

SNIPPETS = """
import doctest, sys
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
failed, tried = doctest.testfile(sys.argv[1], module_relative=False, optionflags=flags)
print(f"{tried - failed} of {tried} lines of the README do what it says")
sys.exit(failed > 0 or tried == 0)
"""


def say(text: str) -> None:
    """Print at once: pip takes minutes."""
    print(text, flush=True)


class Environment:
    """A virtual environment, and an empty folder beside it to work in."""

    def __init__(self, place: Path) -> None:
        self.bin = place / "environment" / "bin"
        self.folder = place / "elsewhere"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(place / "environment")], check=True)

    def run(self, *command: str) -> str:
        """Run a program of the environment in the empty folder; its output, or the end of everything."""
        hidden = {"PYTHONPATH", "VIRTUAL_ENV", "HOLDFAST_DATA"}
        known = {name: value for name, value in os.environ.items() if name not in hidden}
        known["PATH"] = os.pathsep.join([str(self.bin), known["PATH"]])
        started = time.perf_counter()
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]], cwd=self.folder, env=known, capture_output=True, text=True
        )
        shown = " ".join(word if "\n" not in word else "…" for word in command)
        if done.returncode:
            raise SystemExit(f"{shown} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        say(f"  ok ({time.perf_counter() - started:.1f} s): {shown}")
        return done.stdout

    def install(self, what: str) -> None:
        """Install with pip, at the versions of ``constraints.txt``."""
        self.run("pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), what)


def build(place: Path) -> Path:
    """Build both from what is committed, and have twine check them; the wheel."""
    tree, out, tools = place / "tree", place / "dist", place / "tools"
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
    (place / "tree.tar").write_bytes(archive)
    with tarfile.open(place / "tree.tar") as packed:
        packed.extractall(tree, filter="data")
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    pip = [str(tools / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "build", "twine"]
    subprocess.run(pip, check=True)
    subprocess.run(
        [str(tools / "bin" / "python"), "-m", "build", "-o", str(out), str(tree)], check=True, capture_output=True
    )
    built = sorted(out.iterdir())
    subprocess.run([str(tools / "bin" / "twine"), "check", "--strict", *map(str, built)], check=True)
    (wheel,) = [path for path in built if path.suffix == ".whl"]
    say(f"built {', '.join(f'{path.name} ({path.stat().st_size / 1024:.0f} KiB)' for path in built)}")
    return wheel


def try_core(environment: Environment, wheel: Path) -> None:
    """What must work with the core alone."""
    say("without extras")
    environment.install(str(wheel))
    took = environment.run(
        "python", "-c", "import time; t = time.perf_counter(); import holdfast; print(time.perf_counter() - t)"
    )
    say(f"  import holdfast: {float(took):.2f} s")
    say(f"  {environment.run('holdfast', '--version').strip()}")
    say(environment.run("holdfast", "doctor"))
    shutil.copy(ROOT / "README.md", environment.folder)
    say(f"  {environment.run('python', '-c', SNIPPETS, 'README.md').strip()}")
    code = "import holdfast; print(len([getattr(holdfast, name) for name in holdfast.__all__]))"
    say(f"  {environment.run('python', '-c', code).strip()} public names are there")


def try_extra(environment: Environment, wheel: Path, extra: str, seeds: int) -> None:
    """Install one extra and do what it is for."""
    say(f"with [{extra}]")
    environment.install(f"{wheel}[{extra}]")
    for command in TRIED[extra]:
        environment.run(*(word.format(seeds=seeds) for word in command))
    state = environment.run("holdfast", "doctor")
    (line,) = re.findall(rf"^\w+ +{extra} .*$", state, flags=re.MULTILINE)
    if not line.startswith("ready"):
        raise SystemExit(f"holdfast doctor does not find it ready:\n{state}")


def main() -> None:
    """Build, check, install, use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", default="bench", help="with commas between them; 'all', or '' for none")
    parser.add_argument("--seeds", type=int, default=1, help="of the comparison that `make demo` makes with 3")
    asked = parser.parse_args()
    extras = list(TRIED) if asked.extras == "all" else [name for name in asked.extras.split(",") if name]
    for unknown in set(extras) - set(TRIED):
        parser.error(f"--extras has {unknown!r}; expected some of {', '.join(TRIED)}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        environment = Environment(Path(folder))
        try_core(environment, wheel)
        for extra in extras:
            try_extra(environment, wheel, extra, asked.seeds)
    say(json.dumps({"wheel": wheel.name, "extras": extras, "python": sys.version.split()[0]}))


if __name__ == "__main__":
    main()
