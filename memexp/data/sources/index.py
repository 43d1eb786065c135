"""Fetches the source archive of a package from the index that pip is set to, without pip.

pip builds what it downloads as a source, to read its metadata, and so runs code of the package. Here the archive is only copied:
the index lists its files with their checksums (PEP 503 and 691), and the file with the pinned checksum is taken.
"""

import hashlib
import json
import re
import ssl
from ast import literal_eval
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import URLError
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, url2pathname

TIMEOUT = 15.0
"""Seconds to wait for an answer."""

LARGEST = 1 << 31
"""Bytes of an archive, at most."""

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

DEFAULT = re.compile(r"Python Package Index \(default (\S+)\)")
"""The index of pip's own default, in its help."""

SETTING = re.compile(r"^[^=]*?\.(index-url|extra-index-url|find-links|no-index|cert)='?(.*?)'?$")
"""A line of `pip config list`."""


class NotFound(Exception):
    """No index has the archive, or none can be read; says why."""


class Places(NamedTuple):
    """Where pip looks for packages."""

    indexes: list[str]
    links: list[str]
    """Folders, or pages of links."""
    cert: str | None


class Link(NamedTuple):
    """A file that an index lists."""

    url: str
    name: str
    sha256: str | None


def places(command: Sequence[str], configured: str, help: str) -> Places:
    """Where pip looks for packages, by its command line, by what `pip config list` says and by its help."""
    given: dict[str, list[str]] = {}
    for line in configured.splitlines():
        if found := SETTING.match(line):
            values = literal_eval(f"'{found[2]}'") if "'" not in found[2] else found[2]
            # Later lines are closer to the user, and the environment comes last; additions add up.
            earlier = given.get(found[1], []) if found[1] in ("extra-index-url", "find-links") else []
            given[found[1]] = earlier + values.split()
    for word in command:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and equals:
            given[name] = [*given.get(name, []), value] if name in ("extra-index-url", "find-links") else [value]
    none = "--no-index" in command or given.get("no-index", ["false"])[-1].lower() in ("1", "true", "yes", "on")
    indexes = [*given.get("index-url", DEFAULT.findall(" ".join(help.split())))[-1:], *given.get("extra-index-url", [])]
    return Places([] if none else indexes, given.get("find-links", []), next(iter(given.get("cert", [])), None))


def copy_archive(name: str, version: str, sha256: str, where: Places, folder: Path) -> Path:
    """Copy the source archive with this checksum into `folder`.

    Raises:
        NotFound: there is none, or it cannot be read.
        OSError: `folder` cannot be written.
    """
    reasons = []
    for page in [*where.links, *(f"{index.rstrip('/')}/{_normal(name)}/" for index in where.indexes)]:
        try:
            for link in _links(page, where.cert):
                if link.sha256 not in (None, sha256) or not _is_source(link.name, name, version):
                    continue
                if (file := _copied(link, sha256, where.cert, folder)) is not None:
                    return file
                reasons.append(f"{link.name} has another checksum")
        except (URLError, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            reasons.append(f"{_without_password(page)}: {reason}")
    why = f" ({'; '.join(dict.fromkeys(reasons))})" if reasons else ""
    raise NotFound(f"there is no source archive of {name}=={version} with SHA-256 {sha256}{why}")


def _links(page: str, cert: str | None) -> Iterator[Link]:
    """The files that a page lists, or that stand in a folder."""
    folder = _folder(page)
    if folder is not None and not (folder / "index.html").is_file():
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield Link(file.resolve().as_uri(), file.name, None)
        return
    address = (folder / "index.html").resolve().as_uri() if folder is not None else page
    with _open(address, cert) as answer:
        kind, text = answer.headers.get("Content-Type", ""), answer.read(LARGEST).decode("utf-8", "replace")  # type: ignore[attr-defined]
        address = getattr(answer, "url", address)
    if "json" in kind:
        for file in json.loads(text)["files"]:
            yield Link(urljoin(address, file["url"]), str(file["filename"]), file.get("hashes", {}).get("sha256"))
        return
    for href in _Anchors.of(text):
        url, fragment = urldefrag(urljoin(address, href))
        sha256 = fragment.partition("sha256=")[2] or None
        yield Link(url, unquote(url.rpartition("/")[2]), sha256)


def _folder(page: str) -> Path | None:
    """The folder that a page is, if it is one of this machine."""
    parts = urlsplit(page)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(page).expanduser()


def _open(url: str, cert: str | None) -> IO[bytes]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"an address of the kind {parts.scheme!r}; expected http, https or file")
    request = Request(_without_password(url), headers={"Accept": ACCEPT, "User-Agent": "memexp"})
    if parts.username is not None:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {b64encode(word.encode()).decode()}")
    opener = build_opener(ProxyHandler(), HTTPSHandler(context=ssl.create_default_context(cafile=cert)))
    answer: IO[bytes] = opener.open(request, timeout=TIMEOUT)
    return answer


def _copied(link: Link, sha256: str, cert: str | None, folder: Path) -> Path | None:
    """The file, copied; None if it has another checksum."""
    target, digest, size = folder / link.name, hashlib.sha256(), 0
    with _open(link.url, cert) as answer, target.open("wb") as file:
        while data := answer.read(1 << 20):
            size += len(data)
            if size > LARGEST:
                break
            digest.update(data)
            file.write(data)
    if size <= LARGEST and digest.hexdigest() == sha256:
        return target
    target.unlink()
    return None


def _is_source(file: str, name: str, version: str) -> bool:
    """Whether a file's name is that of a package's source archive; such a name has no slash."""
    ending = next((ending for ending in ENDINGS if file.endswith(ending)), None)
    stem = file.removesuffix(ending or "")
    return ending is not None and "/" not in file and _normal(stem) == _normal(f"{name}-{version}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class _Anchors(HTMLParser):
    """Collects the addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, text: str) -> list[str]:
        """The addresses that a page's links have."""
        page = cls()
        page.feed(text)
        page.close()
        return page.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
