"""The picture of a report in the README, taken from the demo's records: ``python -m tests.bench.report.picture``."""

from __future__ import annotations

import base64
import hashlib
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from holdfast.bench import report
from holdfast.bench.records import record
from tests.bench.report.browser import Browser, find

ROOT = Path(__file__).parents[3]
RECORDS = ROOT / "docs" / "records" / "demo" / "task" / "records"
PICTURE = ROOT / "docs" / "images" / "report.png"
COMMAND = "make demo"
WIDTH, HEIGHT = 1180, 1500
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def digest() -> str:
    """What tells the demo's records from any others."""
    found = hashlib.sha256()
    for path in sorted(RECORDS.glob("*.json")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def take(browser: Browser) -> bytes:
    """The report of the demo as a window shows it, a PNG file that says which records it is of."""
    with tempfile.TemporaryDirectory() as folder:
        path = report.write(record.load_all(RECORDS), Path(folder) / "report.html", commands=[COMMAND])
        browser.open(path, width=WIDTH, height=HEIGHT)
        shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    return marked(shot, digest())


def marked(png: bytes, text: str) -> bytes:
    """A PNG file with a remark, before its end."""
    body = b"tEXtComment\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + chunk + png[-12:]


def remarks(png: bytes) -> Iterator[str]:
    """The remarks in a PNG file."""
    assert png.startswith(_SIGNATURE)
    at = len(_SIGNATURE)
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        if kind == b"tEXt":
            yield data.partition(b"\0")[2].decode("latin-1")
        at += size + 12


def main() -> int:
    """Take the picture anew."""
    binary = find()
    if binary is None:
        print("no chromium, chromium-browser or google-chrome is installed", file=sys.stderr)
        return 1
    browser = Browser(binary)
    try:
        PICTURE.write_bytes(take(browser))
    finally:
        browser.close()
    print(f"Picture: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
