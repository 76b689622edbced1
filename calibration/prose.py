"""English sentences out of documentation: docstrings, comments and README text, without the code in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MIN_WORDS = 6
MAX_WORDS = 40

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_ROLE = re.compile(r":[a-zA-Z:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}|\[([^\]\n]+)\]\([^)\n]*\)")
_MARKUP = re.compile(r"``?([^`\n]+)``?_{0,2}|\*\*?([^*\n]+)\*\*?")
_FOOTNOTE = re.compile(r"\s*\[[\w#]+\]_?")
_PARAMETER = re.compile(
    r"^(?:[-*+•]\s+|\d+[.)]\s+)?(?:`{0,2}\*{0,2}[\w.]+`{0,2}\s*\([^)]*\)\s*:|:\w+[^:\n]*:|[\w.]+:)\s+"
)
_BULLET = re.compile(r"^(?:[-*+•#]|\d+[.)])\s+")
_RULE = re.compile(r"^\s*([=\-~^\"'`#*+.|_:])\1{2,}")
_QUOTED = re.compile(r"[\"']([A-Z][^\"\n]{24,220}?[.!?])[\"']")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|cf|vs|al|Fig|Eq|Sec|resp|approx|No|Dr|Mr|Mrs|St|[A-Z])\.[\"')]*$"
)
_FORBIDDEN = re.compile(
    r"[_{}\[\]<>=\\|@#$^*~`/&+]|https?:|::|\.\.|--|\(\)|\w\.\w|:\w|[^\x20-\x7e\u2018-\u201d\u00c0-\u00ff]"
)
_WORD = re.compile(r"[A-Za-z\u00c0-\u00ff]+(?:['’-][A-Za-z\u00c0-\u00ff]+)*")
_COMMENT = re.compile(r"^[ \t]*#+[ \t]?(.*)$", re.MULTILINE)


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of a Python file, parsed and never run; none when it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, Documented):
            text = ast.get_docstring(node)
            if text:
                yield text
        todo += [child for child in body if isinstance(child, (*_DOCUMENTED, ast.If, ast.Try))]


_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def comments(source: str) -> str:
    """The comments of a Python file: each block of lines is a paragraph."""
    lines = []
    for line in source.splitlines():
        match = _COMMENT.match(line)
        lines.append(match.group(1) if match else "")
    return "\n".join(lines)


def sentences(text: str) -> Iterator[str]:
    """The English sentences of a documentation text, as plain text in order."""
    for paragraph in paragraphs(text):
        for part in split_sentences(paragraph):
            if is_prose(part):
                yield part
    for quoted in _QUOTED.findall(text):
        if is_prose(quoted):
            yield quoted


def paragraphs(text: str) -> Iterator[str]:
    """Runs of lines of one indentation, joined, with markup taken off.

    A line that is indented otherwise starts a new run, so that the descriptions in lists of parameters
    are apart from the names above them. Code blocks, doctests, tables and directives are left out.
    """
    run: list[str] = []
    run_indent = 0
    block_indent: int | None = None
    for line in [*text.expandtabs().splitlines(), ""]:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if block_indent is not None and stripped and indent <= block_indent:
            block_indent = None
        inside = block_indent is not None
        starts = bool(_BULLET.match(stripped) or _PARAMETER.match(stripped))
        if run and (not stripped or indent != run_indent or starts or inside):
            # The continuation of a list item hangs deeper than its first line.
            if (
                stripped
                and not starts
                and not inside
                and len(run) == 1
                and indent > run_indent
                and _open(run[0])
            ):
                run_indent = indent
            else:
                yield _plain(" ".join(run))
                run = []
        if (
            not stripped
            or inside
            or _RULE.match(stripped)
            or stripped.startswith((">>>", "...", "$ ", "@", "|"))
        ):
            continue
        if stripped.startswith("..") or stripped.endswith("::"):
            block_indent = indent
            if stripped.startswith(".."):
                continue
        if not run:
            run_indent = indent
        run.append(stripped)


def _open(line: str) -> bool:
    """Whether a line is the beginning of something that goes on: it has words and no end."""
    return len(line.split()) > 3 and not line.endswith((".", ":", "!", "?"))


def _plain(text: str) -> str:
    text = _PARAMETER.sub("", _BULLET.sub("", text))
    text = _LINK.sub(lambda m: m.group(1) or m.group(2), _ROLE.sub(r"\1", text))
    text = _MARKUP.sub(lambda m: m.group(1) or m.group(2), text)
    return " ".join(_FOOTNOTE.sub("", text).split())


def split_sentences(paragraph: str) -> list[str]:
    """Split at ends of sentences, but not after abbreviations."""
    parts: list[str] = []
    for part in _SENTENCE_END.split(paragraph):
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += " " + part
        else:
            parts.append(part)
    return parts


def words(sentence: str) -> list[str]:
    """The words of a sentence in lower case."""
    return [word.lower() for word in _WORD.findall(sentence)]


def is_prose(sentence: str) -> bool:
    """Whether a text is one complete sentence of plain English words."""
    if not (30 <= len(sentence) <= 320) or sentence[-1] not in ".!?" or not sentence[0].isalpha():
        return False
    if not sentence[0].isupper() or _FORBIDDEN.search(sentence[:-1]) or sentence.count('"') % 2:
        return False
    tokens = sentence.split()
    if not MIN_WORDS <= len(tokens) <= MAX_WORDS or sentence.count("(") != sentence.count(")"):
        return False
    plain = [t.strip("\"'(),;:.!?") for t in tokens]
    proper = [p for p in plain if _WORD.fullmatch(p) and (p.islower() or p.istitle() or p == "I" or "'" in p)]
    lower = [p for p in proper if p.islower()]
    return len(proper) >= 0.9 * len(tokens) and len(lower) >= 0.6 * len(tokens) and _has_function_words(lower)


_FUNCTION_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "and",
        "is",
        "are",
        "be",
        "for",
        "that",
        "this",
        "with",
        "it",
        "as",
        "on",
        "by",
        "or",
        "from",
        "not",
        "can",
        "will",
        "if",
        "was",
        "has",
        "have",
        "at",
        "which",
        "you",
        "we",
        "they",
        "he",
        "she",
        "his",
        "her",
        "its",
        "their",
        "when",
        "there",
        "but",
        "than",
        "then",
    ]
)


def _has_function_words(lower: list[str]) -> bool:
    """English has function words every few words; lists of names and other languages have not."""
    return 6 * sum(word in _FUNCTION_WORDS for word in lower) >= len(lower)
