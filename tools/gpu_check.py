"""On a machine with a GPU: builds, tests, sanitizes and measures the CUDA kernels.

    python tools/gpu_check.py [--steps build,tests,memcheck,racecheck,benchmarks] [--dry-run]

With the python that has torch; pytest, hypothesis, ninja, setuptools and pybind11 must be there, and
expecttest, which torch's opcheck imports (pip install it, or carry its wheel). Each step has a limit
in seconds, and the limits add up to less than ten minutes. What a step prints goes to build/gpu_check/,
the figures to benchmarks/results/DATE-DEVICE-cuda.json.
"""

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "gpu_check"
BENCHMARKS = LOGS / "benchmarks.json"
NEEDED = ("torch", "pytest", "hypothesis", "expecttest", "ninja", "setuptools", "pybind11")
REDUCED = [sys.executable, "-m", "tests.cuda.reduced"]

# name: command, limit in seconds
STEPS: dict[str, tuple[list[str], int]] = {
    "build": ([sys.executable, "setup.py", "build_ext", "--inplace"], 240),
    "tests": ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cuda"], 130),
    "memcheck": (["compute-sanitizer", "--error-exitcode=9", "--tool=memcheck", *REDUCED], 75),
    "racecheck": (["compute-sanitizer", "--error-exitcode=9", "--tool=racecheck", *REDUCED], 75),
    "benchmarks": ([sys.executable, "-m", "benchmarks.cuda", "--out", str(BENCHMARKS)], 70),
}


def stop(sentence: str) -> None:
    sys.exit(f"gpu_check: {sentence}")


def device_facts() -> dict[str, str]:
    """What figures mean nothing without."""
    import torch

    facts = {
        "date": datetime.date.today().isoformat(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "device": torch.cuda.get_device_name(),
        "architecture": "{}.{}".format(*torch.cuda.get_device_capability()),
    }
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        printed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        facts["driver"] = printed.strip().splitlines()[0] if printed.strip() else "unknown"
    return facts


def run(name: str, environment: dict[str, str]) -> dict[str, object]:
    """A step, its log on disk; its outcome, and the last line of what it printed."""
    command, limit = STEPS[name]
    begin = time.monotonic()
    log = LOGS / f"{name}.log"
    try:
        with log.open("w") as out:
            code: int | str = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=limit,
                check=False,
            ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        code = f"stopped after {limit} s"
    except FileNotFoundError:
        code = f"there is no {command[0]} here"
    printed = log.read_text(errors="replace").strip().splitlines()
    return {
        "outcome": "passed" if code == 0 else f"failed ({code})",
        "seconds": round(time.monotonic() - begin, 1),
        "last line": printed[-1] if printed else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default=",".join(STEPS), help="some of: " + ",".join(STEPS))
    parser.add_argument(
        "--dry-run", action="store_true", help="says what would run, and what is missing"
    )
    options = parser.parse_args()
    steps = [name for name in options.steps.split(",") if name]
    if unknown := set(steps) - set(STEPS):
        parser.error(f"--steps: {', '.join(sorted(unknown))}: expected some of {', '.join(STEPS)}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if options.dry_run:
        for name in steps:
            print(f"{name:11} at most {STEPS[name][1]:3} s: {' '.join(STEPS[name][0])}")
        print(f"missing here: {', '.join(missing) or 'nothing'}")
        return
    if missing:
        stop(f"{', '.join(missing)}: not installed for {sys.executable}")
    import torch

    if not torch.cuda.is_available():
        stop("no GPU here: torch.cuda.is_available() is False")

    facts = device_facts()
    LOGS.mkdir(parents=True, exist_ok=True)
    BENCHMARKS.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "CNN_EXT_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": facts["architecture"],
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    environment.pop("CNN_EXT_EMULATED_CUDA", None)
    outcome: dict[str, object] = {"machine": facts, "steps": {}}
    passed = True
    for name in steps:
        result = run(name, environment)
        outcome["steps"][name] = result  # type: ignore[index]
        passed = passed and result["outcome"] == "passed"
        print(
            f"{name:11} {result['outcome']} in {result['seconds']} s: {result['last line']}", flush=True
        )
        if name == "build" and result["outcome"] != "passed":
            break
    if BENCHMARKS.exists():
        outcome["rows"] = json.loads(BENCHMARKS.read_text())["rows"]
    device = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    results = ROOT / "benchmarks" / "results" / f"{facts['date']}-{device}-cuda.json"
    results.write_text(json.dumps(outcome, indent=1) + "\n")
    print(f"written to {results.relative_to(ROOT)}; logs in {LOGS.relative_to(ROOT)}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
