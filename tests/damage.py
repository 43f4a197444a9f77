"""Ways to damage a file, by its kind: what a bad disk, a killed copy, a wrong editor or a stranger makes of it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def only(damages: dict[str, Damage], *names: str) -> dict[str, Damage]:
    """The damages of these names."""
    return {name: damages[name] for name in names}


def but(damages: dict[str, Damage], *names: str) -> dict[str, Damage]:
    """The damages without those of these names, which leave a whole file, or one that nobody misses."""
    return {name: damage for name, damage in damages.items() if name not in names}


def content(change: Callable[[bytes], bytes]) -> Damage:
    """A damage that turns the file's bytes into others."""
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def folder(path: Path) -> None:
    """A folder where the file should be."""
    path.unlink()
    path.mkdir()


def flipped(data: bytes, place: int) -> bytes:
    """One bit turned."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


ANY: dict[str, Damage] = {
    "missing": Path.unlink,
    "folder": folder,
    "empty": content(lambda data: b""),
    "cut": content(lambda data: data[: len(data) * 3 // 5]),
    "random": content(lambda data: bytes(range(255, -1, -1)) * 4),
}
TEXT = ANY | {
    "UTF-16": content(lambda data: data.decode().encode("utf-16")),
    "Latin-1": content(lambda data: data + "é".encode("latin-1")),
}
DEEP = b"[" * 100_000
JSON = TEXT | {
    "a list": content(lambda data: b"[]"),
    "a number": content(lambda data: b"3"),
    "NaN": content(lambda data: data.rstrip()[:-1] + b', "x": NaN}'),
    "deep": content(lambda data: DEEP),
    "huge number": content(lambda data: b'{"x": ' + b"9" * 5000 + b"}"),
    "half a character": content(lambda data: data.rstrip()[:-1] + b', "x": "\\ud800"}'),
}
JSONL = TEXT | {
    "a list": content(lambda data: data + b"[1]\n"),
    "nothing known": content(lambda data: data + b'{"surprise": 1}\n'),
    "NaN": content(lambda data: data + b"NaN\n"),
    "deep": content(lambda data: data + DEEP + b"\n"),
    "half a character": content(lambda data: data.replace(b'":"', b'":"\\ud800')),
    "an empty line": content(lambda data: data + b"\n" + data),
}
BOMB = "[lol]"
for level in range(9):
    BOMB = f"[&x{level} {BOMB}{f', *x{level}' * 8}]"


def bomb_inside(data: bytes) -> bytes:
    """A value that would take gigabytes to print, where the first text is looked for."""
    import yaml

    value = yaml.safe_load(data)
    if isinstance(value, list):
        return f"- {{id: {BOMB}, claim: a, where: b}}\n".encode()
    first, *rest = value
    held = f"{{a: {BOMB}}}" if isinstance(value[first], dict) else BOMB
    return (f"{first}: {held}\n" + yaml.safe_dump({name: value[name] for name in rest})).encode()


YAML = TEXT | {
    "a list": content(lambda data: b"- 1\n"),
    "a key twice": content(lambda data: data + b"\n" + data if data.lstrip()[:1] != b"-" else b"- {id: a, id: b}\n"),
    "bomb": content(lambda data: BOMB.encode()),
    "a bomb inside": content(bomb_inside),
    "a tag that calls": content(lambda data: b"!!python/object/apply:os.mkdir [hacked]\n"),
    "a date that is none": content(lambda data: b"a: 2024-99-99\n"),
    "deep": content(lambda data: DEEP[:500]),
}


def without_first_column(data: bytes) -> bytes:
    return b"".join(line.partition(b",")[2] for line in data.splitlines(keepends=True))


def numbers_gone(data: bytes) -> bytes:
    """NaN for every number of the first row."""
    head, first, *rows = data.decode().splitlines()
    fields = ["nan" if field.replace(".", "").isdigit() else field for field in first.split(",")]
    return "\n".join([head, ",".join(fields), *rows, ""]).encode()


TABLE = TEXT | {
    "no column": content(without_first_column),
    "a row twice": content(lambda data: data + data.splitlines(keepends=True)[-1]),
    "a field more": content(lambda data: data.rstrip() + b",1\n"),
    "cut in the last field": content(lambda data: data.rstrip()[:-1]),
    "NaN": content(numbers_gone),
}


def table(change: Callable[[Any], Any]) -> Damage:
    """A damage that turns a parquet file's rows into others."""

    def damage(path: Path) -> None:
        import pyarrow.parquet

        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)

    return damage


def flip_text(path: Path) -> None:
    """One bit of the last column, such that the file can still be read without its checksums, and says something else."""
    import pyarrow.parquet

    whole, rows = path.read_bytes(), pyarrow.parquet.read_table(path)
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    column = group.column(group.num_columns - 1)
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    for place in reversed(range(start, start + column.total_compressed_size)):
        path.write_bytes(flipped(whole, place))
        with contextlib.suppress(pyarrow.ArrowException, OSError):
            # values that are no UTF-8 would be noticed, too
            if pyarrow.parquet.read_table(path) != rows and pyarrow.parquet.read_table(path).to_pylist():
                return
    raise AssertionError("no bit can be turned unseen")


def first_as_numbers(rows: Any) -> Any:
    import pyarrow

    return rows.set_column(0, rows.column_names[0], pyarrow.array(range(len(rows))))


def first_empty(rows: Any) -> Any:
    import pyarrow

    return rows.set_column(0, rows.column_names[0], pyarrow.nulls(len(rows), rows.schema[0].type))


# a table without the first row alone may be whole
PARQUET = ANY | {
    "bit": flip_text,
    "no column": table(lambda rows: rows.select(rows.column_names[1:])),
    "a row twice": table(lambda rows: __import__("pyarrow").concat_tables([rows, rows.slice(0, 1)])),
    "no rows": table(lambda rows: rows.slice(0, 0)),
    "another type": table(first_as_numbers),
    "empty fields": table(first_empty),
}


def tensors(change: Callable[[dict[str, Any], str], Any]) -> Damage:
    """A damage that changes a safetensors file's tensors, given them and the first one's name."""

    def damage(path: Path) -> None:
        from safetensors.numpy import load_file, save_file

        held = load_file(path)
        change(held, min(held))
        save_file(held, path, {"format": "pt"})

    return damage


def not_finite(held: dict[str, Any], name: str) -> None:
    held[name] = held[name].copy()
    held[name].flat[0] = float("nan")


def pickled(path: Path) -> None:
    """A pickle that makes a folder `hacked` when it is loaded, under the file's name."""
    path.write_bytes(b"cposix\nmkdir\n(Vhacked\ntR.")


WEIGHTS = ANY | {
    "a pickle": pickled,
    "bit in the header": content(lambda data: flipped(data, 9)),
    "huge header": content(lambda data: b"\xff" * 8 + data[8:]),
    "NaN": tensors(not_finite),
    "a tensor less": tensors(lambda held, name: held.pop(name)),
    "another shape": tensors(lambda held, name: held.update({name: held[name][:-1].copy()})),
    "a tensor more": tensors(lambda held, name: held.update(surprise=held[name])),
}
BIT_IN_WEIGHTS: dict[str, Damage] = {"bit": content(lambda data: flipped(data, len(data) - 9))}


def without(name: str) -> Damage:
    """A JSON object without a key."""
    return content(
        lambda data: json.dumps({key: value for key, value in json.loads(data).items() if key != name}).encode()
    )
