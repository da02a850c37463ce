"""The one rule for text: what a line may have, how any text is shown, and what stands in where a sign is missing."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import Lab, LabkitError, display
from labkit.core import undo
from labkit.farm.reconcile import up
from labkit.kernel import proc
from labkit.report.site import hypertext
from labkit.wiki.publish import last_written, prepared
from labkit.wiki.render import wikitext

#: What people write: of each, none may be refused or changed.
PEOPLES = {
    "a no-break space": "Pourquoi 3 réplicas\u00a0?",
    "a narrow one": "«\u202fBonjour\u202f»",
    "an ideographic space": "研究室\u3000紹介",
    "a joiner that does not join": "کتاب\u200cخانه",
    "joiners of emoji": "👩\u200d🔬 👩🏽\u200d❤\ufe0f\u200d👩🏿",
    "marks of direction": "\u200eabc\u200f שלום \u061c",
    "a soft hyphen": "Donau\u00addampf",
    "a flag of tags": "🏴\U000e0067\U000e0062\U000e007f",
    "one newer than Python's table": "\U0001fae9\U0001fac6",
    "one for private use": "\ue000",
    "markup": "R&D <b>'''x'''</b> {{y}} $1 \\n",
}
#: What is refused in a line, and how it is shown elsewhere.
REFUSED = {
    "\0": "␀", "\x1b": "␛", "\x7f": "␡", "\r": "␍", "\x0b": "␋", "\x9b": "\ufffd", "\x85": "\ufffd",
    "\u2028": "[U+2028]", "\u2029": "[U+2029]", "\u202e": "[U+202E]", "\u2066": "[U+2066]",
    "\u2069": "[U+2069]", "\ud800": "\ufffd", "\uffff": "\ufffd",
}  # fmt: skip


@pytest.mark.parametrize("line", PEOPLES.values(), ids=PEOPLES)
def test_what_people_write_is_text_everywhere(line: str) -> None:
    """A title, a folder, what a terminal, the review site and the wiki show: all are the same words."""
    assert display.line(line) == line
    assert display.shown(line) == line
    assert hypertext.plain(line) == line
    assert wikitext.clean(line) == unicodedata.normalize("NFC", line)
    assert Lab.of({"sites": [{"name": "a", "title": line}]}).sites[0].title == line
    assert display.quoted(line)[1:-1] == line
    with pytest.raises(LabkitError) as caught:
        Lab.of({"name": line})
    assert display.quoted(line) in caught.value.value


@pytest.mark.parametrize(("character", "sign"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_what_is_no_text_is_refused_by_its_number_and_shown(character: str, sign: str) -> None:
    """The error names the character; what has it all the same steers no terminal and turns no line."""
    assert display.shown(f"a{character}b") == f"a{sign}b"
    assert len(display.shown(f"a{character}b").splitlines()) == 1
    with pytest.raises(LabkitError) as caught:
        Lab.of({"sites": [{"name": "a", "title": f"a{character}b"}]})
    assert caught.value.code == "config.text"
    assert f"U+{ord(character):04X}" in str(caught.value) or character == "\ud800"


def test_quotation_marks_are_told_apart_and_a_quoted_text_is_one_line() -> None:
    """As Python does it; of what is no text its own word is said."""
    assert display.quoted("it's") == '"it\'s"'
    assert display.quoted("a\nb\x1b") == "'a␊b␛'"
    assert display.quoted(3) == "3"


def test_line_ends_and_tabs_are_refused_in_a_line_and_stay_in_a_text() -> None:
    """A title is one line; what a program says may be many."""
    assert display.shown("a\tb\nc") == "a\tb\nc"
    for character in "\t\n":
        with pytest.raises(LabkitError):
            Lab.of({"sites": [{"name": "a", "title": f"a{character}b"}]})


@pytest.mark.parametrize(
    ("said", "charset", "seen"),
    [
        ("✔ holds – 3 × 4 …", "ascii", "+ holds - 3 x 4 ..."),
        ("✔ réplicas\u00a0?", "latin-1", "+ réplicas\u00a0?"),
        ("研究 \ud800", "koi8-r", "?? ?"),
        ("\udcff ✔", "utf-8", "? ✔"),
    ],
)
def test_an_output_without_a_sign_gets_a_plain_one(said: str, charset: str, seen: str) -> None:
    """No output ends for a character that its terminal does not have."""
    codecs.register_error("labkit-test", display.substitute)
    assert said.encode(charset, "labkit-test").decode(charset) == seen


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["without", "with"])
def test_a_persons_file_may_begin_with_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    """As Windows' editors write it: it is no part of the text."""
    (tmp_path / "lab.toml").write_bytes(f'{mark}wiki.assignment = "a.md"\r\n'.encode())
    (tmp_path / "a.md").write_bytes(f"{mark}# Aufgabe\r\n".encode())
    lab = Lab.load(tmp_path / "lab.toml")
    made = prepared.assignment(lab)
    assert "Aufgabe" in made
    assert "\ufeff" not in made


def test_a_pages_name_is_as_long_as_the_wiki_takes_it() -> None:
    """The page of the bot's own beside the report is one, too; the wiki composes the characters first."""
    fits = {"wiki": {"page": "実" * 80 + "ab"}}
    assert len(last_written.state_title(Lab.of(fits).wiki.page).encode()) == 255
    assert Lab.of({"wiki": {"page": "e\u0301" * 100}})
    with pytest.raises(LabkitError, match="at most 242") as caught:
        Lab.of({"wiki": {"page": "実" * 80 + "abc"}})
    assert caught.value.code == "config.page-length"


def test_no_two_pages_have_one_file() -> None:
    """Whatever their names are written in; a plain name's file is called as the page."""
    names = [
        "Report",
        "Lab report",
        "Lab-report",
        "研究室",
        "報告書",
        "Réport",
        "R port",
        "a/b",
        "a:b",
    ]
    assert len({last_written.stem(name) for name in names}) == len(names)
    assert [last_written.stem(name) for name in names[:2]] == ["Report", "Lab-report"]


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("/srv/lab", "/srv/lab"),
        ("/srv/mon\\040été", "/srv/mon été"),
        ("/srv/研究\u3000室\u00a0\u2028x", "/srv/研究\u3000室\u00a0\u2028x"),
        ("/srv/a\\134b\\012\udce9", "/srv/a\\b\n\udce9"),
    ],
)
def test_a_mount_is_found_whatever_its_folder_is_called(field: str, place: str) -> None:
    """The kernel writes blanks of ASCII in octal, and all other characters as they are."""
    lines = f"36 35 98:0 / {field} rw,noatime shared:1 - overlay o ro,lowerdir=/a\\040b:/c\n"
    (mount,) = proc.mounts(lines)
    assert (mount.place, mount.parent, mount.kind) == (place, "35", "overlay")
    assert mount.options == ("rw", "noatime")
    assert mount.special == ("ro", "lowerdir=/a\\040b:/c")


@pytest.mark.root
def test_a_farm_comes_up_and_goes_in_a_folder_as_people_call_it(
    make_lab: Callable[..., Lab], open_folder: Path
) -> None:
    """Accents, spaces, blanks of other scripts: what is mounted there is found, and gone afterwards."""
    place = open_folder / "mon été «\u00a0研究\u3000室\u00a0» R&D"
    lab = make_lab(
        sites=["red"],
        replicas=1,
        state=f"{place}/state",
        run=f"{place}/run",
        outputs=f"{place}/out",
    )
    assert up.replicas(lab).holds
    assert [point for point in undo.mount_points() if point.startswith(str(place))]
    assert not undo.unmake_all(lab)[1]
    assert not [point for point in undo.mount_points() if point.startswith(str(place))]
