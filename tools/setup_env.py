"""Makes .venv, installs what `make` needs there, and builds the C++ operations in place.

Run by the Makefile with any Python >= 3.11; only the standard library is used here. It does nothing
that is already done, says what it does, and ends with one sentence where it cannot go on.

    python tools/setup_env.py EXTRA [EXTRA ...]     extras as in pyproject.toml: train, test, lint

CNN_EXT_TORCH chooses another torch than the newest, as pip is told it: CNN_EXT_TORCH=torch==2.13.0.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BUILD_TOOLS = ("setuptools>=77", "ninja", "pybind11>=2.12")
NEEDED_GB = 8  # torch with CUDA, the training libraries and the build


def stop(sentence: str) -> None:
    sys.exit(f"cnn_ext: {sentence}")


def check_machine() -> None:
    """Everything that can be known to be missing before anything is made."""
    if sys.version_info < (3, 11):  # noqa: UP036 - any Python may run this
        stop(
            f"this is Python {sys.version.split()[0]} and 3.11 or newer is needed; "
            "name one with: make PYTHON=python3.12"
        )
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        stop(
            f"there is no C++ compiler ({compiler}); install one, on Debian or Ubuntu with: "
            "apt-get install g++"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        stop(
            "Python's C headers are missing; on Debian or Ubuntu install them with: "
            f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        )


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < NEEDED_GB:
        stop(
            f"{free:.1f} GB are free here and torch with its libraries takes about {NEEDED_GB}; "
            "make room and type the same again"
        )


def run(*command: object, why: str) -> None:
    """Runs a command, quiet about what goes well; its failure is ours, in one sentence."""
    print(f"cnn_ext: {why}", flush=True)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    print(done.stdout)
    if os.strerror(errno.ENOSPC) in done.stdout:
        stop("the disk is full; make room and type the same again")
    stop(f"that failed, for the reason above: {' '.join(str(part) for part in command)}")


def make_environment() -> None:
    if not PYTHON.exists():
        try:
            import ensurepip  # noqa: F401
        except ModuleNotFoundError:
            stop(
                "this Python cannot make virtual environments; on Debian or Ubuntu type: "
                f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            )
        run(sys.executable, "-m", "venv", VENV, why=f"making {VENV.name} ...")


def install(extras: list[str]) -> None:
    """torch first, for the build needs it; then the package in place, with its extras.

    A stamp remembers what was installed, so that a second call installs nothing.
    """
    project = (ROOT / "pyproject.toml").read_bytes()
    for extra in extras:
        stamp = VENV / f"installed-{extra}"
        digest = hashlib.sha256(project).hexdigest()
        if stamp.exists() and stamp.read_text() == digest:
            continue
        check_disk()
        pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        torch = os.environ.get("CNN_EXT_TORCH", "torch")
        run(*pip, torch, *BUILD_TOOLS, why=f"installing {torch} and build tools (minutes) ...")
        run(*pip, *requirements(extra), why=f"installing what '{extra}' needs ...")
        stamp.write_text(digest)


def requirements(extra: str) -> list[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed: list[str] = []
    for requirement in project["optional-dependencies"][extra]:
        if requirement.startswith(f"{project['name']}["):
            listed += requirements(requirement.partition("[")[2].rstrip("]"))
        else:
            listed.append(requirement)
    return listed


def build() -> None:
    """Incremental: ninja compiles what changed. Prints how long it took, for CI's log to tell."""
    start = time.monotonic()
    run(
        PYTHON,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--editable",
        ROOT,
        why="building the C++ operations ...",
    )
    print(f"cnn_ext: built in {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    check_machine()
    make_environment()
    install(sys.argv[1:] or ["train"])
    build()


if __name__ == "__main__":
    main()
