"""The functions of a C file and the lines that each takes: tree-sitter's C grammar, and what the kernel adds to C.

tree-sitter parses a file without its headers and its configuration, so functions under every `#ifdef` are found, static
and inlined ones too, and a macro that is no C costs the one place where it stands. DWARF would give only what one
configuration compiled. On 16 files of 6.12 (networking, file systems, crypto, the scheduler) its functions are those
that universal-ctags finds, which takes system calls for one function, `SYSCALL_DEFINE4`; and it comes as a wheel, with
nothing to install beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

SUFFIXES = (".c", ".h")
_HEAD_BYTES = 500
"""No macro's name and first argument are further on."""
_SYSCALL = re.compile(r"(?:COMPAT_)?SYSCALL_DEFINE[0-6]$")


@dataclass(frozen=True, slots=True)
class Function:
    """One function's definition: its first line is that of its type, its last that of the closing brace; from 1."""

    name: str
    first: int
    last: int


def functions_in(data: bytes) -> list[Function]:
    """Return every function that a C file defines, in the order of the file; one under `#if` and `#else` twice."""
    import tree_sitter_c
    from tree_sitter import Language, Parser

    root = Parser(Language(tree_sitter_c.language())).parse(data).root_node
    return sorted(_definitions(root), key=lambda function: function.first)


def _definitions(root: Node) -> Iterator[Function]:
    """Yield definitions at file scope, those within #if among them; a function's body is not looked into."""
    left = [root]
    while left:
        before: Node | None = None
        for child in left.pop().children:
            if child.type == "function_definition":
                name = _declared(child.child_by_field_name("declarator")) or _by_macro(child)
                if name:
                    yield Function(name, child.start_point[0] + 1, child.end_point[0] + 1)
            elif child.type == "compound_statement":
                # MACRO(name, ...) { ... }: to C a call, and a block by itself
                name = _by_macro(before) if before is not None else ""
                if before is not None and name:
                    yield Function(name, before.start_point[0] + 1, child.end_point[0] + 1)
            elif child.child_count and not child.type.endswith(("declaration", "_statement")):
                left.append(child)
            if child.type != "comment":
                before = child


def _declared(node: Node | None) -> str:
    """Return the name in a declarator, "" where it has none."""
    while node is not None and node.type != "identifier":
        inner = node.child_by_field_name("declarator")
        node = inner or next((n for n in node.named_children if "declarator" in n.type or n.type == "identifier"), None)
    return node.text.decode("utf-8", "replace") if node is not None and node.text else ""


def _by_macro(node: Node) -> str:
    """Return the name of a function that a macro declares: `SYSCALL_DEFINE3(name, ...)`, `BPF_CALL_1(name, ...)`.

    A system call's function is the one that is called by its number, `__x64_sys_name` on x86 (asm/syscall_wrapper.h).
    """
    match = re.match(rb"[\w\s]*?\b(\w+)\s*\(\s*(\w+)\s*[,)]", (node.text or b"")[:_HEAD_BYTES])
    if not match or not match[1].isupper():
        return ""
    macro, name = match[1].decode("utf-8", "replace"), match[2].decode("utf-8", "replace")
    return f"__x64_sys_{name}" if _SYSCALL.match(macro) else name
