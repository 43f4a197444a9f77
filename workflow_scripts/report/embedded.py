"""Figures and scripts inside the report's one file: data URIs, and the policy under which a browser shows them."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from measure.tables import Row
from run.program import InputError
from run.readers import read_text


def figure_in(path: str) -> Row:
    """The figure in an SVG file. Raises InputError if it is missing or no SVG."""
    return figure_of(read_text(path), path)


def figure_of(text: str, path: str) -> Row:
    """A figure for the template: its title, its size, and a data URI, in which no script runs and ids are its own.

    text: SVG. path: whose name is the figure's. Raises InputError for what is no SVG.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text)
        box = [float(number) for number in root.get("viewBox", "0 0 720 400").split()]
        width, height = map(round, box[2:])
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not SVG ({error}); fix: delete it and draw it again") from None
    # A reader without the font gets one of nearly the same widths, and not the browser's serifs.
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: 'DejaVu Sans', Verdana, sans-serif")
    bold = [
        (float(size[1]), "".join(node.itertext()).strip())
        for node in root.iter("{http://www.w3.org/2000/svg}text")
        if "font-weight: 700" in (style := node.get("style", "")) and (size := re.search(r"font-size: ([\d.]+)", style))
    ]
    name = Path(path).stem
    title = max(bold, default=(0, name), key=lambda pair: pair[0])[1]
    uri = f"data:image/svg+xml;base64,{encoded(text.encode())}"
    return {"name": name, "title": title, "width": width, "height": height, "uri": uri}


def by_source(figures: Sequence[Row], sources: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """source -> (what it shows, name) of its figures. Names end with the source, which another's may end with."""
    found: dict[str, list[tuple[str, str]]] = {source: [] for source in sources}
    for each in figures:
        own = max((source for source in sources if each["name"].endswith(f"_{source}")), key=len, default=None)
        if own is not None:
            found[own].append((each["name"].removesuffix(f"_{own}").replace("_", " "), each["name"]))
    return {source: own for source, own in found.items() if own}


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script and images inside the file; no network, no other script."""

    def source(text: str) -> str:
        return f"'sha256-{encoded(hashlib.sha256(text.encode()).digest())}'"

    parts = {"default-src": "'none'", "img-src": "data:", "style-src": source(style), "script-src": source(script),
             "base-uri": "'none'", "form-action": "'none'"}  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()
