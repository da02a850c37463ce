"""The caller's locale, files and variables change nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import pytest

from labkit import Lab, display
from labkit.core import run
from labkit.display import curl
from labkit.report.batch import notebook
from labkit.report.figures import style
from labkit.report.stages import record as records
from tests import stage_notebooks
from tests.projects import project
from tests.servers import saying, served

TRAP = "raise SystemExit('of the caller')\n"


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a French locale whose character set is Latin-1 (for LOCPATH)."""
    folder = tmp_path_factory.mktemp("locales")
    if run.which("localedef") is None or not Path("/usr/share/i18n/locales/fr_FR").exists():
        pytest.skip("this machine cannot make a locale (Debian's package locales)")
    run.run(["localedef", "-i", "fr_FR", "-f", "ISO-8859-1", folder / "fr_FR"], ok=(0, 1))
    yield folder


def labkit(folder: Path, *words: str, **env: str) -> run.Done:
    """The command as a person calls it, with these variables and without labkit's locale."""
    bare = ("env", "-u", "LC_ALL", "-u", "LANG", *(f"{key}={value}" for key, value in env.items()))
    argv = [*bare, sys.executable, "-m", "labkit", *words]
    return run.run(argv, cwd=folder, env={"PYTHONPATH": os.getcwd()}, ok=range(256))  # noqa: PTH109


def test_a_locale_of_another_character_set_ends_no_command(tmp_path: Path, locales: Path) -> None:
    """What the terminal cannot show is said in plain characters; what it can, in its own; JSON is UTF-8."""
    folder = tmp_path / "été"
    folder.mkdir()
    own = project(folder, 'sites = [{name = "red", title = "réplicas 研"}]')
    french = {"LOCPATH": str(locales), "LANG": "fr_FR"}
    argv = ["env", "-u", "LC_ALL", *(f"{k}={v}" for k, v in french.items()), "sh", "-c",
            'exec "$@" >"$0"', str(tmp_path / "said"), sys.executable, "-m", "labkit", "check"]  # fmt: skip
    run.run(argv, cwd=folder, env={"PYTHONPATH": str(stage_notebooks.ROOT)}, ok=(1,))
    said = (tmp_path / "said").read_bytes()
    assert b"x fails" in said
    wrong = labkit(folder, "plan", "--json", "--set", "wiki.page=é\u202e研", **french)
    assert "é[U+202E]研" in json.loads(wrong.stdout)["error"]["value"]
    assert labkit(folder, "status", **french).status == 0
    assert own.lab.output_dir.parent.parent == folder


def test_a_locale_that_is_not_installed_ends_nothing(tmp_path: Path) -> None:
    """As ssh hands it on: the terminal has UTF-8, and so has labkit."""
    folder = tmp_path / "été"
    folder.mkdir()
    project(folder)
    done = labkit(folder, "check", LC_ALL="tr_TR.UTF-8")
    assert "✘ fails" in done.stdout
    missing = labkit(folder, "plan", "--config", str(folder / "none.toml"), LC_ALL="tr_TR.UTF-8")
    assert "été/none.toml: there is no such file" in missing.stderr


def test_nothing_of_the_callers_acts_in_a_batchs_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel named python3, IPython's startup files, a matplotlibrc, modules where labkit is
    called, Python's variables: a cell sees none of them."""
    home, here = tmp_path / "home", tmp_path / "here"
    for name in ("secrets", "json", "nbformat", "sitecustomize"):
        _write(here / f"{name}.py", TRAP)
    spec = {"argv": ["false"], "display_name": "own", "language": "python"}
    _write(home / ".local/share/jupyter/kernels/python3/kernel.json", json.dumps(spec))
    _write(home / ".ipython/profile_default/startup/00-own.py", TRAP)
    _write(home / ".config/matplotlib/matplotlibrc", "font.size: 40\n")
    monkeypatch.chdir(here)
    for name in (
        "HOME",
        "IPYTHONDIR",
        "JUPYTER_PATH",
        "JUPYTER_CONFIG_DIR",
        "MPLCONFIGDIR",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.setenv(name, str(home))
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "MATPLOTLIBRC"):
        monkeypatch.setenv(name, str(here))
    cell = "import os, matplotlib as m; print(m.rcParams['font.size'], os.environ['LC_ALL'], sorted(os.environ))"
    source = stage_notebooks.write(tmp_path / "nb", "01-wiki", cell, close=False)
    lab = _write(tmp_path / "lab.toml", "")
    done = notebook.execute(
        source,
        tmp_path / "out" / "01-wiki.ipynb",
        parameters={},
        env=notebook.environment(lab, "r", tmp_path / "out"),
        on_line=lambda _: None,
    )
    assert done.status == 0, done
    said = str(
        (records.read_notebook(tmp_path / "out" / "01-wiki.ipynb") or {})["cells"][-1]["outputs"]
    )
    assert "10.0 C.UTF-8" in said
    assert "MATPLOTLIBRC" not in said


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_persons_own_program_has_their_screen_and_no_path_of_pythons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """JupyterLab opens their browser; what it imports is labkit's."""
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "PIP_TARGET", "LC_ALL"):
        monkeypatch.setenv(name, "/theirs")
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("DISPLAY", ":1")
    monkeypatch.setenv("LABKIT_FILE", "/lab.toml")
    seen = run.persons_environment({"X": "1"})
    assert (seen["HOME"], seen["DISPLAY"], seen["LABKIT_FILE"], seen["X"]) == (
        "/home/ann",
        ":1",
        "/lab.toml",
        "1",
    )
    assert seen["LC_ALL"] == "C.UTF-8"
    assert "/theirs" not in seen.values()


def test_a_figure_is_the_same_whatever_matplotlib_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of a matplotlibrc (here in rcParams) change no byte of it."""
    import matplotlib as mpl

    lab = Lab.of({"name": "x", "outputs": str(tmp_path)})

    def drawn() -> bytes:
        with style.axes(2.0) as (canvas, ax):
            ax.set_title("réplicas 研究室")
            return style.save(lab, canvas, name="one", alt="a", caption="c")._image

    plain = drawn()
    with mpl.rc_context({"font.size": 40, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert drawn() == plain


def test_a_printed_command_works_when_it_is_pasted(tmp_path: Path) -> None:
    """Whatever proxy the person has set, and whatever their curlrc says: a proxy is asked for somebody else's wiki alone,
    as labkit does it. An address is one word, and all commands with curl have one place in the code."""
    addresses = ("http://10.60.0.11/", "http://127.0.0.1:8060/w/api.php?a=b&c=d", "http://site1.lab.test:81/", "https://wiki.example.org/")  # fmt: skip
    for address in addresses:
        words = shlex.split(curl(address, options="-si"))
        assert words[:2] == ["curl", "--disable"]
        assert ("--noproxy" in words) is (address != addresses[-1])
        assert words[-2:] == ["-si", address]
    _write(tmp_path / ".curlrc", "proxy = http://127.0.0.1:9\nfail\n")
    proxy = dict.fromkeys(("http_proxy", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    with served(HTTPServer(("127.0.0.1", 0), saying(lambda _: "hello"))) as server:
        typed = curl(f"http://127.0.0.1:{server.server_port}/", options="--silent")
        done = run.run(["sh", "-c", typed], env={"HOME": str(tmp_path), **proxy}, ok=range(256))
    assert done.stdout == "hello", done
    modules = Path(display.__file__).parent.rglob("*.py")
    by_hand = [m.name for m in modules if re.search(r"\bcurl (-|http|\{)", m.read_text("utf-8"))]
    assert by_hand == []
