"""Text for the quickstart: prose out of documentation, sentences of the grammar, and their mixture."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from archnet.calibration import corpus, prose
from archnet.calibration.everyday import RULES, everyday_sentences
from archnet.errors import ArchNetError

DOCSTRING = """Return the sum of two numbers, which may be negative.

The *second* number is optional; see :func:`~math.fsum` for a version
that is more precise [1]_.  It has been there since the ``first`` release
(e.g. Python itself uses it in many places).

Parameters
----------
first : int, optional
    The number that the second one is added to, if there is any.
second (int): Whether this argument is used depends on the first of them.
:param third: This parameter has no effect when the others are given.
base_class: no_prose_here = 3

- A list may hold sentences that are whole, such as this one.

    >>> add(1, 2)  # This is a comment in a doctest and not a sentence.
    3
    >>> say("My dog likes to sleep on the old sofa in the kitchen.")

Example::

    This block is code even though it reads like a sentence of words.

.. note::
    This directive is left out although it reads like a sentence too.

===== ======================================================
Name  This table cell reads like a sentence but is in a table
===== ======================================================

See https://example.org/page for more about how this is done here.
CamelCaseNames AndOthers LikeThis AreNot EnglishWords AtAll NoNo.
"""

EXPECTED = [
    "Return the sum of two numbers, which may be negative.",
    "The number that the second one is added to, if there is any.",
    "Whether this argument is used depends on the first of them.",
    "This parameter has no effect when the others are given.",
    "A list may hold sentences that are whole, such as this one.",
    "My dog likes to sleep on the old sofa in the kitchen.",
]


def test_prose_of_a_docstring() -> None:
    # Sentences with a dotted name or an abbreviation inside are left out as a whole.
    assert list(prose.sentences(DOCSTRING)) == EXPECTED


def test_docstrings_are_parsed_and_never_run() -> None:
    source = b'''"""Module text."""
raise SystemExit("this file was run")
class A:
    "Class text."
    async def f(self):
        """Method text."""
        if True:
            def g(): "Inner text."
x = "no docstring"
'''
    assert sorted(prose.docstrings(source)) == ["Class text.", "Inner text.", "Method text.", "Module text."]
    assert list(prose.docstrings(b"def broken(:")) == []
    assert list(prose.docstrings(b"\0")) == []


def test_comments_form_paragraphs() -> None:
    source = (
        "# The first line of a comment\n# goes on in the second one.\nx = 1  # not this\n"
        "\n    # Another block of words is apart.\n"
    )
    assert list(prose.sentences(prose.comments(source))) == [
        "The first line of a comment goes on in the second one.",
        "Another block of words is apart.",
    ]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("This is a plain sentence of English words.", True),
        ("Is this a question that somebody asks here?", True),
        ("Too short to keep.", False),
        ("this one does not begin with a capital letter.", False),
        ("There is no full stop at the end of this one", False),
        ("The value of x_y is used when it is given.", False),
        ("Ceci est une phrase qui parle toujours anglais jamais.", False),
        ("Calls foo.bar() on the object before it returns.", False),
        ("word " * 60 + "the end.", False),
    ],
)
def test_what_is_prose(text: str, good: bool) -> None:
    assert prose.is_prose(text) is good


def test_grammar_is_closed_and_reproducible() -> None:
    used = set(re.findall(r"<(\w+)>", " ".join(a for choices in RULES.values() for a in choices)))
    assert used <= set(RULES)
    assert set(RULES) - used == {"sentence"}
    found = everyday_sentences(3000, seed=1)
    assert found == everyday_sentences(3000, seed=1)
    assert len(set(found)) == 3000
    assert len(set(found) & set(everyday_sentences(3000, seed=2))) < 600
    text = "\n".join(found)
    assert not set("<>") & set(text)
    assert not re.search(r"\b[Aa] (?:apple|orange|umbrella|old|eagle|empty|hour)\b", text)
    assert not re.search(r"\ban (?:unicycle|one|uniform|dog)\b", text)
    assert "  " not in text


def test_most_varied_prefers_rare_words_and_drops_repetitions() -> None:
    dull = [
        f"Returns the value of the array number {w} for the caller." for w in ("one", "two", "three", "four")
    ]
    dull += ["The value of the array is the value of the array itself."] * 2
    lively = [f"{who} feeds the hungry horse near the quiet river." for who in ("Anna", "Peter", "Maria")]
    chosen = corpus.most_varied(dull + lively, 3)
    assert chosen == lively
    assert corpus.most_varied(["The dogs were sleeping here.", "Here, were the dogs sleeping?"], 9) == [
        "The dogs were sleeping here."
    ]


def test_quickstart_text_of_a_part_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    part = corpus.documentation_sentences([library / "email", library / "logging", library / "unittest"])
    assert len(part) > 400
    assert part == corpus.documentation_sentences(
        [library / "email", library / "logging", library / "unittest"]
    )
    assert all(prose.is_prose(s) for s in part)
    monkeypatch.setattr(corpus, "documentation_sentences", lambda: part)
    chosen = corpus.quickstart_sentences(500, seed=3)
    assert len(chosen) == len(set(chosen)) == 500
    assert chosen == corpus.quickstart_sentences(500, seed=3)
    assert len(set(chosen) & set(part)) == pytest.approx(500 * (1 - corpus.EVERYDAY_SHARE), abs=5)


def test_installation_without_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "documentation_sentences", lambda: ["This is the only sentence there is."])
    with pytest.raises(ArchNetError, match="carries only 1 sentences") as caught:
        corpus.quickstart_sentences(400)
    assert "--data" in caught.value.fix


def test_packages_are_found_without_importing_them() -> None:
    folders = list(corpus._package_folders())
    assert any(folder.name == "numpy" for folder in folders)
    assert all(folder.is_dir() for folder in folders)
