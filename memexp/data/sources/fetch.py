"""Fetches a package with its ordinary client (pip or apt) into a cache, so that its files can become a corpus."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from memexp.data.sources.index import NotFound, copy_archive, places
from memexp.errors import UserError
from memexp.files import checksum, read_json, write_json

RECORD = "checksum.json"
"""File with the name and SHA-256 of the archive beside it. It is written last, so a folder that has it is complete."""

APT = ("apt-get", "--quiet", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15")

PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--retries=1")

FORMS: dict[str, tuple[str, ...] | None] = {
    "": ("--only-binary=:all:",),
    "source": None,
    # The same file on every machine, since only texts in it are wanted, not programs.
    "linux": (
        "--only-binary=:all:",
        "--python-version=3.11",
        "--implementation=cp",
        "--platform=manylinux_2_24_x86_64",
    ),
}
"""Options of pip for each form of a package: what it would install here, or on Linux. Only wheels, for pip builds a source that
it downloads, and so runs code of the package; a source is copied from the index without pip."""

DISTRIBUTIONS = ("Debian", "Ubuntu")
"""Only their packages are asked for. Other lists of apt belong to others."""

NO_WHEEL = "Could not find a version"
"""What pip says where an index has no wheel of a package."""

NEVER_UPDATED = "`apt-get update` was never run on this machine: run it once, as root"


class Package(NamedTuple):
    """What identifies a package for its client."""

    client: str
    """pip, apt, or apt-source: the source that a Debian package is built from."""
    name: str
    version: str | None
    """None takes the version of the system's release, because Debian keeps no other."""
    sha256: str | None
    """Of pip's archive; pip compares it before it opens the archive. Debian's are compared by apt with its signed lists."""
    form: str = ""
    """Which of the registry's files, a key of FORMS."""


class Fetched(NamedTuple):
    """An archive in the cache whose checksum was verified."""

    file: Path
    version: str
    sha256: str


def fetch(package: Package, cache: Path) -> Fetched:
    """The archive of a package. It is downloaded if the cache does not have it.

    Raises:
        UserError: the client is missing or cannot download the package, or the archive has another checksum.
    """
    name = f"{package.client}-{package.name}" + (f"-{package.version}" if package.version else "")
    folder = cache / name
    if not (folder / RECORD).exists():
        _download(package, folder)
    record = read_json(folder / RECORD)
    file = folder / record["file"]
    _verify(file, record["sha256"], f"remove {folder}, and it is fetched again")
    if package.sha256 is not None:
        _verify(file, package.sha256, f"remove {folder}, and it is fetched again. Likely cause: a copy of another one")
    # Debian's files are NAME_VERSION_ARCHITECTURE.deb and NAME_VERSION.orig.tar.xz, with %3a for a colon.
    version = package.version or file.name.split("_")[1].partition(".orig.")[0].replace("%3a", ":")
    return Fetched(file, version, record["sha256"])


def _verify(file: Path, expected: str, hint: str) -> None:
    try:
        seen = checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; expected SHA-256 {expected}; {hint}") from error
    if seen != expected:
        raise UserError(f"{file} has SHA-256 {seen}; expected {expected}. {hint[0].upper()}{hint[1:]}")


def _download(package: Package, folder: Path) -> None:
    """Make `folder` with the archive and its record, completely or not at all."""
    from memexp.terminal import console

    console(stderr=True).print(f"Fetching {package.name} with {package.client}", highlight=False, markup=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; expected a folder that can be written") from error
    try:
        CLIENTS[package.client](package, partial)
        files = [file for file in partial.iterdir() if file.suffix != ".dsc"]
        if len(files) != 1:
            raise UserError(
                f"{package.client} gave {len(files)} files for {package.name}; expected one archive. Likely cause: another "
                "version of the client"
            )
        write_json(partial / RECORD, {"file": files[0].name, "sha256": checksum(files[0])})
        if folder.exists() and not (folder / RECORD).exists():  # so it is useless
            shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        if not (folder / RECORD).exists():  # else another process was faster
            raise UserError(f"cannot write {folder}: {error.strerror}; expected room for a package") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip(package: Package, folder: Path) -> None:
    options = FORMS[package.form]
    if options is None:
        _source(package, folder)
        return
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [*PIP, "--require-hashes", "--dest", str(folder), *options, "--requirement", str(wanted)]
    try:
        _run(command, package, folder)
    except UserError as error:
        if package.form or NO_WHEEL not in str(error):
            raise
        try:
            _source(package, folder)  # the pinned archive may be a source
        except UserError:
            raise error from None
    wanted.unlink()


def _source(package: Package, folder: Path) -> None:
    """Copy the source archive from where pip looks for packages."""
    assert package.version is not None  # pip's packages are pinned
    assert package.sha256 is not None
    configured = _run([*PIP[:3], "config", "list"], package, folder)
    help = _run([*PIP[:3], "download", "--help"], package, folder)
    try:
        copy_archive(package.name, package.version, package.sha256, places(PIP, configured, help), folder)
    except NotFound as error:
        raise UserError(
            f"pip's indexes do not give {package.name}: {error}; expected a download. Likely cause: no network, or no such version"
        ) from error


def _apt(package: Package, folder: Path) -> None:
    _releases(package, folder)
    _run([*APT, "download", package.name], package, folder)


def _apt_source(package: Package, folder: Path) -> None:
    """By default Debian lists its binary packages and not its sources, so sources are listed for this call alone."""
    releases = _releases(package, folder)
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        (own / "lists" / "partial").mkdir(parents=True)
        (own / "sources.list").write_text("".join(f"deb-src {release}\n" for release in releases))
        command = [*APT, "-o", f"Dir::Etc::SourceList={own / 'sources.list'}", "-o", "Dir::Etc::SourceParts=-"]
        command += ["-o", f"Dir::State::Lists={own / 'lists'}"]
        command += ["-o", "Dir::Cache::PkgCache=", "-o", "Dir::Cache::SrcPkgCache="]
        # Without this apt only warns of a list that it cannot fetch.
        _run([*command, "-o", "APT::Update::Error-Mode=any", "update"], package, folder)
        _run([*command, "source", "--download-only", "--tar-only", package.name], package, folder)


def _releases(package: Package, folder: Path) -> list[str]:
    """Address, release and component of each of apt's lists of the distribution's own packages."""
    asked = ["indextargets", "--format", "$(ORIGIN)|$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    lists = [line.split("|") for line in _run([*APT, *asked], package, folder).splitlines()]
    releases = sorted({release for origin, release in lists if origin in DISTRIBUTIONS})
    if not releases:
        raise UserError(
            f"apt-get has no lists of packages, so it cannot fetch {package.name}; expected Debian's or Ubuntu's. Likely "
            f"cause: {NEVER_UPDATED}"
        )
    return releases


def _run(command: Sequence[str], package: Package, folder: Path) -> str:
    """Run a client in `folder` and return what it prints."""
    client = "pip" if "pip" in command else command[0]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise UserError(_absent(client, package)) from error
    if f"No module named {client}" in done.stderr:
        raise UserError(_absent(client, package))
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR:"))]
        reason = lines[0].partition(":")[2].strip() if lines else f"it ended with {done.returncode}"
        unknown = "Unable to locate package" in reason
        cause = (
            f"the system's release does not have it, or {NEVER_UPDATED}"
            if unknown
            else "no network, or no such version"
        )
        raise UserError(f"{client} cannot fetch {package.name}: {reason}; expected a download. Likely cause: {cause}")
    return done.stdout


def _absent(client: str, package: Package) -> str:
    where = "a Debian or Ubuntu system" if client == "apt-get" else "an environment with pip"
    return f"{client} is not installed, so it cannot fetch {package.name}; expected {where}. Or copy data/downloads from where it was fetched"


CLIENTS: dict[str, Callable[[Package, Path], None]] = {"pip": _pip, "apt": _apt, "apt-source": _apt_source}
