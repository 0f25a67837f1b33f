"""Follows a parameter through the package: who takes it, who passes it on, who reads it.

    python .ci/follow.py NAME [FOLDER]

A file takes it where a function has a parameter of that name, passes it on where a call is given
it by that name, and reads it as a field of a record or a key of a dictionary. Where many files take
it and pass it on, it wants to travel in a record; where many read it by a key, in a typed one.
"""

import ast
import sys
from pathlib import Path

WAYS = ("takes", "passes on", "reads as a field", "reads by a key")


def ways_in(tree: ast.AST, name: str) -> set[str]:
    """Returns what a module does with a parameter, of `WAYS`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=given) if given == name:
                found.add("takes")
            case ast.Call(args=args, keywords=keywords) if any(
                isinstance(one, ast.Name) and one.id == name for one in args
            ) or any(one.arg == name for one in keywords):
                found.add("passes on")
            case ast.Attribute(attr=given) if given == name:
                found.add("reads as a field")
            case ast.Subscript(slice=ast.Constant(value=given)) if given == name:
                found.add("reads by a key")
    return found


def main(name: str, folder: str = "tlkit") -> None:
    """Prints the files, and how many there are of each way."""
    ways = {
        path: found
        for path in sorted(Path(folder).rglob("*.py"))
        if (found := ways_in(ast.parse(path.read_text(encoding="utf-8")), name))
    }
    for path, found in ways.items():
        print(f"{path}: {', '.join(way for way in WAYS if way in found)}")
    counts = {way: sum(way in found for found in ways.values()) for way in WAYS}
    print(f"{len(ways)} files: " + ", ".join(f"{way} {count}" for way, count in counts.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
