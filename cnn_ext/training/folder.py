"""The folder of a run: whose it is, and what may be written into it.

A run owns its folder. Its record, which is a random identity, the options and the size of the data,
stands in ``options.json`` and goes into every checkpoint and into ``report.json``. They are compared
before a run continues. Each file is written beside its place and renamed, so that none is half written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout

from cnn_ext._json import strict_json
from cnn_ext.training.options import changes

OPTIONS, CHECKPOINT, REPORT = "options.json", "last.ckpt", "report.json"
PICTURES = ("confusion.png", "mistakes.png")
LOGS = ("csv", "tensorboard")
PATIENCE = 10  # seconds; processes that load images outlive a parent that was killed by five


class RunError(RuntimeError):
    """A run cannot begin, continue or end; the message is a whole sentence for the user."""


class DivergedError(RunError):
    """The loss left all bounds. ``report`` is what ``report.json`` has."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its place when it is whole and on the disk, or never.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a") as file:
        ...         before = (Path(folder) / "a").exists(), file.write(b"all of it")
        ...     before, (Path(folder) / "a").read_bytes()
        ((False, 9), b'all of it')
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


class RunFolder:
    """Files of one run.

    Args:
        path: the folder; it is made when the run claims it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_free(self, overwrite: bool) -> None:
        """Raises if there is a run already that nobody asked to overwrite, or no place for a folder."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: expected a folder, and {str(self.path)!r} is a file")
        if not overwrite and any((self.path / name).exists() for name in (OPTIONS, CHECKPOINT, REPORT)):
            raise ValueError(
                f"out: there is a run in {str(self.path)!r} already; --resume continues it, "
                "--overwrite begins anew in its place, and another --out leaves it alone"
            )

    def record(self) -> dict[str, Any]:
        """The content of ``options.json``.

        Raises:
            ValueError: there is none.
            RunError: it is not of a run.
        """
        if not (self.path / OPTIONS).exists():
            raise ValueError(f"resume: there is no run in {str(self.path)!r}: it has no {OPTIONS}")
        return self._read(OPTIONS, "--overwrite begins anew")

    def report(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The report of this run, None if it has not ended."""
        if not (self.path / REPORT).exists():
            return None
        report = self._read(REPORT, "remove it, and --resume writes it again")
        self._compare(REPORT, report, record)
        return report

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out. The operating system opens it when the process ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"out: another process is at work in {str(self.path)!r}") from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, record: dict[str, Any], resume: bool, overwrite: bool) -> None:
        """Writes the record of a run that begins or continues. Call it under the lock.

        A new run first removes what an earlier one has left, and replaces the options last. Were it
        killed in between, an earlier run would stand there without a checkpoint, never a checkpoint
        with another run's options.
        """
        if resume:
            if self.record()["run"] != record["run"] or (self.path / REPORT).exists():
                raise RunError(f"out: another process has been at work in {str(self.path)!r}")
        else:
            self.check_free(overwrite)
            for name in (REPORT, CHECKPOINT, *PICTURES):
                (self.path / name).unlink(missing_ok=True)
            for version in (v for log in LOGS for v in (self.path / log).glob("version_*")):
                shutil.rmtree(version)
        self.write_json(OPTIONS, record)

    def checkpoint(self, record: Mapping[str, Any]) -> Path | None:
        """The last checkpoint of this run, None if no epoch was finished.

        Raises:
            RunError: it is damaged, or another run's.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
            content = None if damaged else torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # whatever a broken file makes the readers raise
            raise self._broken(CHECKPOINT, error, "--overwrite begins anew") from error
        if damaged:
            raise self._broken(CHECKPOINT, f"wrong checksum of {damaged}", "--overwrite begins anew")
        kept = content.get("run") if isinstance(content, dict) else None
        if not isinstance(kept, dict):
            raise self._broken(CHECKPOINT, "it says no run", "--overwrite begins anew")
        self._compare(CHECKPOINT, kept, record)
        return path

    def how_to_continue(self) -> str:
        """What to type after the run was stopped."""
        command = f"python -m cnn_ext train --resume --out {shlex.quote(str(self.path))}"
        if (self.path / CHECKPOINT).exists():
            return f"To continue after the last whole epoch, type: {command}"
        return f"No epoch was finished. To begin it again, type: {command}"

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Strict JSON; what is not finite becomes null."""
        with whole_file(self.path / name) as file:
            file.write((strict_json(value, indent=1) + "\n").encode())

    def write_picture(self, name: str, figure) -> None:
        """As PNG."""
        with whole_file(self.path / name) as file:
            figure.savefig(file, format="png", dpi=110)

    def _read(self, name: str, remedy: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise self._broken(name, error, remedy) from error
        if not (isinstance(content, dict) and isinstance(content.get("run"), str)):
            raise self._broken(name, "it says no run", remedy)
        return content

    def _broken(self, name: str, why: object, remedy: str) -> RunError:
        reason = str(why).partition("\n")[0] or type(why).__name__
        return RunError(f"resume: {self.path / name} cannot be used: {reason}; {remedy}")

    def _compare(self, name: str, kept: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Raises if a file is of another run than the record."""
        if kept.get("run") != record["run"]:
            raise RunError(
                f"resume: {name} and {OPTIONS} in {str(self.path)!r} are of different runs, "
                f"{kept.get('run')} and {record['run']}; --overwrite begins anew"
            )
        if found := changes(kept, record):
            raise RunError(
                f"resume: {name} and {OPTIONS} in {str(self.path)!r} disagree: {found}; "
                "--overwrite begins anew"
            )


def new_identity() -> str:
    """Sixteen random digits, of no generator that training uses."""
    return secrets.token_hex(8)
