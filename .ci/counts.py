"""Counts that say how readable the package is.

    python .ci/counts.py [FOLDER]

A line of code holds more than blanks, a comment or a docstring. The length of a function includes
its signature and the functions within it.
"""

import ast
import io
import sys
import tokenize
from dataclasses import dataclass, fields
from pathlib import Path

MAX_LINES = 80
_NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Counts:
    """The counts of some files, added up.

    Attributes:
        code_lines: Lines of code.
        untyped_dicts: Annotations `dict[str, Any]`.
        gathered_locals: Calls of `locals()`.
        long_functions: Functions of more than `MAX_LINES` lines of code.
    """

    code_lines: int = 0
    untyped_dicts: int = 0
    gathered_locals: int = 0
    long_functions: int = 0

    def add(self, source: str) -> None:
        """Adds those of a module."""
        tree = ast.parse(source)
        lines = lines_of_code(tree, source)
        self.code_lines += len(lines)
        for node in ast.walk(tree):
            match node:
                case ast.Subscript() if ast.unparse(node) == "dict[str, Any]":
                    self.untyped_dicts += 1
                case ast.Call(func=ast.Name(id="locals")):
                    self.gathered_locals += 1
                case ast.FunctionDef(lineno=first, end_lineno=last):
                    length = sum(first <= line <= (last or first) for line in lines)
                    self.long_functions += length > MAX_LINES


def lines_of_code(tree: ast.Module, source: str) -> set[int]:
    """Returns the numbers of the lines of code of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {
        line
        for token in tokens
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def count(folder: str = "tlkit") -> Counts:
    """Returns the counts of all modules in a folder."""
    counts = Counts()
    for path in Path(folder).rglob("*.py"):
        counts.add(path.read_text(encoding="utf-8"))
    return counts


if __name__ == "__main__":
    found = count(*sys.argv[1:])
    for field in fields(found):
        print(f"{field.name.replace('_', ' ')}: {getattr(found, field.name):,}")
