"""Signed outputs: what was changed after a stage was recorded is named by verify, and never shown as true."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import StateError
from labkit.report import Stage
from labkit.report.stages import record as records
from labkit.report.stages import signing
from labkit.report.stages.signing import KEY, MANIFEST, PUBLIC
from tests import stage_notebooks
from tests.conftest import open_place
from tests.damage import torn
from tests.projects import ROOT, Project, files, listing, project
from tests.test_review_remarks import listed, on

STAGE, OTHER = "04-network", "03-containers"
RECORD = f"results/{STAGE}.json"

#: What the small stage does: it reads all stages' records, and leaves a result with a table, and a figure.
SHOWN = """
from labkit.report.stages.closing import closing_table
closing_table(lab)
rows = [{"replica": "site1-1", "ms": 3}]
table = Table.of("times", "Times", rows, units={"ms": "ms"})
stage.record(action("test.times")(lambda: Outcome(value=3, summary="It took 3 ms.", tables=(table,)))())
with style.axes(2.0) as (canvas, axes):
    axes.plot([1, 2], [3, 4])
    line = style.save(lab, canvas, name="line", alt="A line", caption="A line.")
stage.record(line)
print("said by a program")
"""


@dataclass
class Recorded:
    """A project in which two small stages were really run, and the site was built."""

    own: Project
    whole: Path

    @property
    def lab(self) -> Lab:
        """Its lab."""
        return self.own.lab

    @property
    def outputs(self) -> Path:
        """The lab's outputs."""
        return self.lab.output_dir

    def verify(self, *words: str) -> tuple[int, dict[str, str]]:
        """The exit status of ``labkit verify``, and what it found, by the files that differ."""
        done = self.own.labkit("verify", "--json", *words)
        assert "Traceback" not in done.stderr
        found = json.loads(done.stdout)["value"]["differences"]
        return done.status, {item["file"]: item["found"] for item in found}

    def restore(self) -> None:
        """The outputs and the state are as they were recorded."""
        for name in ("outputs", "state"):
            shutil.rmtree(self.own.folder / name)
            shutil.copytree(self.whole / name, self.own.folder / name, symlinks=True)


@pytest.fixture(scope="module")
def once() -> Iterator[Recorded]:
    """The stages run once for all tests, in a folder that every account may enter."""
    with open_place() as folder, open_place() as whole:
        own = project(folder, "replicas = 3")
        (folder / "notebooks").unlink()
        for name, cells in ((OTHER, ("PROBE",)), (STAGE, ("PROBE", SHOWN))):
            stage_notebooks.write(folder / "notebooks", name, *cells)
        assert own.labkit("run", OTHER, STAGE).status == 0
        for name in ("outputs", "state"):
            shutil.copytree(folder / name, whole / name, symlinks=True)
        yield Recorded(own, whole)


@pytest.fixture
def recorded(once: Recorded) -> Iterator[Recorded]:
    """The same, for a test that changes it."""
    yield once
    once.restore()


Harm = Callable[[Recorded], object]


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], *, rehash: bool = True) -> None:
    """The JSON in a file is changed, and its hash made anew as who wants to deceive would."""
    content = json.loads(path.read_text())
    head = {name: content.pop(name, "") for name in ("sha256", "key", "signature")}
    change(content)
    if rehash:
        head["sha256"] = signing.content_digest(content)
    path.write_text(json.dumps({**head, **content}, indent=1, ensure_ascii=False) + "\n")


def edited(change: Callable[[dict[str, Any]], object], *, rehash: bool = True) -> Harm:
    """The measured result in the record is changed."""

    def times(content: dict[str, Any]) -> None:
        results = (entry["result"] for entry in content["entries"] if entry["result"])
        change(next(found for found in results if found["action"] == "test.times"))

    return lambda made: rewrite(made.outputs / RECORD, times, rehash=rehash)


def replaced(name: str, old: str, new: str) -> Harm:
    """A text in a file is another."""

    def harm(made: Recorded) -> None:
        text = (made.outputs / name).read_text()
        assert old in text
        (made.outputs / name).write_text(text.replace(old, new))

    return harm


def another_picture(made: Recorded) -> None:
    """A figure is another picture."""
    path = made.outputs / "figures/line.png"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def gone(name: str) -> Harm:
    """A file is not there."""
    return lambda made: (made.outputs / name).unlink()


def put(name: str, text: str = "x") -> Harm:
    """A file has another text, or is there although no run has made it."""
    return lambda made: (made.outputs / name).write_text(text)


def cut_short(name: str) -> Harm:
    """A file is torn."""
    return lambda made: torn(made.outputs / name)


def pipe(name: str) -> Harm:
    """A named pipe is in a file's place, which whoever reads it would wait for."""

    def harm(made: Recorded) -> None:
        (made.outputs / name).unlink()
        os.mkfifo(made.outputs / name)

    return harm


def signed_again(**update: str) -> Harm:
    """A record that the same key signed for another lab, or for another run: a better one, or an older one."""

    def harm(made: Recorded) -> None:
        record = Stage.load(made.lab, STAGE)
        text = records.dump(made.lab, record.model_copy(update=update))
        (made.outputs / RECORD).write_text(text)

    return harm


def forger(made: Recorded) -> Lab:
    """A lab of the same name with a key of its own."""
    return made.lab.model_copy(update={"state": f"{made.own.folder}/forged"})


def of_another_lab(made: Recorded) -> None:
    """A record of another lab of the same name, which signs with a key of its own."""
    (made.outputs / RECORD).write_text(records.dump(forger(made), Stage.load(made.lab, STAGE)))


def other_key(made: Recorded) -> None:
    """All of it was signed again with a key of somebody's own."""
    for path in (made.outputs / "results").glob("*.json"):
        record = records.parse(path.read_text(), path, "")
        path.write_text(records.dump(forger(made), record))
    content, _ = signing.opened((made.outputs / MANIFEST).read_text(), "manifest", "")
    for part in content["parts"].values():
        for name in part["files"]:
            part["files"][name] = signing.digest((made.outputs / name).read_bytes())
    (made.outputs / MANIFEST).write_text(signing.signed(forger(made), "manifest", content))


def another_stage(made: Recorded) -> None:
    """Another stage's record is in the place of this one's."""
    shutil.copyfile(made.outputs / f"results/{OTHER}.json", made.outputs / RECORD)


def manifest(made: Recorded) -> None:
    """A figure is another one, and the manifest was adapted to it."""
    another_picture(made)
    new = {"figures/line.png": signing.digest((made.outputs / "figures/line.png").read_bytes())}
    rewrite(made.outputs / MANIFEST, lambda c: c["parts"][STAGE]["files"].update(new))


#: What somebody does to the outputs, the file that is named, and what is said of it.
HARMS: dict[str, tuple[Harm, str, str]] = {
    "number, hash made anew": (edited(lambda r: r.update(value=1)), RECORD, "signature is not of its content"),
    "table in the record, hash made anew": (
        edited(lambda r: r["tables"][0].update(rows=[["site1-1", 1]])), RECORD, "signature is not of its content"),
    "record edited": (edited(lambda r: r.update(value=1), rehash=False), RECORD, "does not have its hash"),
    "record cut short": (cut_short(RECORD), RECORD, "is not a stage's record"),
    "another file in a record's place": (put(RECORD, "[]"), RECORD, "is not a JSON object"),
    "table": (replaced(f"tables/{STAGE}/times.csv", "3", "1"), f"tables/{STAGE}/times.csv", "sha256"),
    "PNG": (another_picture, "figures/line.png", "sha256"),
    "SVG": (replaced("figures/line.svg", "<svg", "<svg "), "figures/line.svg", "sha256"),
    "notebook's output": (
        replaced(f"notebooks/{STAGE}.ipynb", "said by a program", "said by nobody"),
        f"notebooks/{STAGE}.ipynb", "sha256"),
    "page": (replaced(f"review/{STAGE}.html", "3 ms", "1 ms"), f"review/{STAGE}.html", "sha256"),
    "index": (replaced("review/index.html", "passed", "perfect"), "review/index.html", "sha256"),
    "record gone": (gone(RECORD), RECORD, "is missing"),
    "table gone": (gone(f"tables/{STAGE}/times.csv"), f"tables/{STAGE}/times.csv", "missing"),
    "figure gone": (gone("figures/line.svg"), "figures/line.svg", "missing"),
    "notebook gone": (gone(f"notebooks/{STAGE}.ipynb"), f"notebooks/{STAGE}.ipynb", "missing"),
    "page gone": (gone("review/index.html"), "review/index.html", "missing"),
    "manifest gone": (gone(MANIFEST), MANIFEST, "is missing"),
    "manifest cut short": (cut_short(MANIFEST), MANIFEST, "is not a manifest"),
    "table added": (put(f"tables/{STAGE}/more.csv"), f"tables/{STAGE}/more.csv", "sha256"),
    "page added": (put("review/more.html"), "review/more.html", "sha256"),
    "a pipe in its place": (pipe(f"tables/{STAGE}/times.csv"), f"tables/{STAGE}/times.csv", "no file"),
    "a pipe in a record's place": (pipe(RECORD), RECORD, "is not a file"),
    "record added": (put("results/05-web.json", "{}"), "results/05-web.json", "has no hash"),
    "of another lab": (of_another_lab, RECORD, "signed by another key"),
    "of a lab of another name": (signed_again(lab="another"), RECORD, "is of the lab 'another'"),
    "of another run": (signed_again(run="run-of-before"), RECORD, "of another run: run-of-before"),
    "of another stage": (another_stage, RECORD, f"of a run of {OTHER}"),
    "key replaced": (other_key, MANIFEST, "signed by another key"),
    "manifest adapted": (manifest, MANIFEST, "signature is not of its content"),
}  # fmt: skip


def test_untouched_outputs_verify(once: Recorded) -> None:
    """As they were recorded, and as they are after the site was built once more; nothing is written."""
    before = files(listing(once.outputs))
    assert once.verify() == (0, {})
    assert once.own.labkit("review").status == 1  # six stages have not run
    assert once.verify() == (0, {})
    assert files(listing(once.outputs)) == before
    known = json.loads((once.outputs / MANIFEST).read_text())["parts"]
    assert set(known) == {OTHER, STAGE, "review"}
    assert set(known[STAGE]["files"]) == {
        RECORD, f"tables/{STAGE}/times.csv", "figures/line.png", "figures/line.svg",
        f"notebooks/{STAGE}.ipynb",
    }  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_changed_is_named_and_refused(recorded: Recorded, harm: str) -> None:
    """``verify`` exits with 1 and names the file, what is expected and what is there. A stage whose record does not
    verify is damaged on the site, not passed, and nothing is published: both name the file, the reason and the
    remedy."""
    act, file, said = HARMS[harm]
    act(recorded)
    status, found = recorded.verify()
    assert status == 1
    assert said in found[file]
    if file != MANIFEST:
        assert list(found) == [file]
    if file not in {RECORD, MANIFEST}:
        return
    done = recorded.own.labkit("review", "--json")
    assert done.status == 1
    (check,) = (c for c in json.loads(done.stdout)["checks"] if c["name"] == f"review.{STAGE}")
    assert not check["holds"]
    assert check["seen"].startswith("damaged")
    assert Path(file).name in check["seen"] or Path(RECORD).name in check["seen"]
    assert said in check["seen"] or "manifest.json has none" in check["seen"]
    assert check["again"] == f"labkit run {STAGE}"
    assert not (recorded.outputs / f"review/{STAGE}.html").exists()
    with pytest.raises(StateError, match="run the stage again: labkit rebuild"):
        records.latest(recorded.lab)  # by which stage 07 publishes
    refused = recorded.own.labkit("publish")
    assert refused.status == 1
    assert Path(file).name in refused.stderr or Path(RECORD).name in refused.stderr
    assert "run the stages again: labkit rebuild" in refused.stderr


@pytest.mark.parametrize("harm", ["table", "PNG", "notebook's output"])
def test_review_names_other_files_of_a_stage(recorded: Recorded, harm: str) -> None:
    """The record is shown, the file is not, and the stage's check does not hold. A page that was changed or added is
    as it was signed, or gone."""
    act, file, _ = HARMS[harm]
    act(recorded)
    HARMS["page"][0](recorded)
    HARMS["page added"][0](recorded)
    assert recorded.own.labkit("review").status == 1
    page = (recorded.outputs / f"review/{STAGE}.html").read_text()
    assert "It took 3 ms." in page
    assert "said by nobody" not in page
    assert f"not as signed, and not shown: {file}" in (recorded.outputs / "review/index.html").read_text()  # fmt: skip
    assert list(recorded.verify()[1]) == [file]


@pytest.mark.parametrize("harm", ["number, hash made anew", "PNG", "manifest gone", "key replaced"])
def test_running_the_stages_again_is_the_remedy(recorded: Recorded, harm: str) -> None:
    """What was refused is put aside and made anew; nothing of it counts as signed."""
    act, _, _ = HARMS[harm]
    act(recorded)
    assert recorded.own.labkit("run", OTHER, STAGE).status == 0
    assert recorded.verify() == (0, {})


def test_outputs_of_an_earlier_version_are_not_signed(recorded: Recorded) -> None:
    """They are said to be not signed, and their stages run again; only what has run is signed then."""
    (recorded.outputs / MANIFEST).unlink()
    for path in (recorded.outputs / "results").glob("*.json"):
        content = json.loads(path.read_text())
        del content["key"], content["signature"]
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (recorded.lab.state_dir / KEY).unlink()
    (recorded.lab.state_dir / PUBLIC).unlink()
    status, found = recorded.verify()
    assert status == 1
    assert "not signed" in found[MANIFEST]
    assert "not signed: an earlier labkit wrote it" in found[RECORD]
    assert recorded.own.labkit("run", OTHER).status == 0
    status, found = recorded.verify()
    assert status == 1
    assert set(found) >= {RECORD, f"notebooks/{STAGE}.ipynb"}
    assert not any(OTHER in name for name in found)
    assert recorded.own.labkit("run", STAGE).status == 0
    assert recorded.verify() == (0, {})


def test_a_copy_is_verified_by_the_key_in_it(recorded: Recorded, tmp_path: Path) -> None:
    """Elsewhere, by somebody who has no such lab; whose key it is is said, and a change is named."""
    copy = tmp_path / "handed-in"
    shutil.copytree(recorded.outputs, copy)
    public = signing.public(recorded.lab)
    shutil.rmtree(recorded.lab.state_dir)
    done = recorded.own.labkit("verify", str(copy))
    assert done.status == 0
    assert public in done.stdout
    assert "the key that the folder itself names" in done.stdout
    assert recorded.verify(str(copy), "--key", public)[0] == 0
    status, found = recorded.verify(str(copy), "--key", "0" * 64)
    assert (status, "signed by another key" in found[MANIFEST]) == (1, True)
    (copy / f"tables/{STAGE}/times.csv").write_text("x")
    status, found = recorded.verify(str(copy))
    assert (status, list(found)) == (1, [f"tables/{STAGE}/times.csv"])
    assert recorded.own.labkit("verify", str(tmp_path / "nowhere")).status == 1


def test_no_manifest_leads_out_of_its_folder(recorded: Recorded, tmp_path: Path) -> None:
    """Whoever signed it: another folder's files are neither read nor told."""
    lab = recorded.lab
    for name in ("../secret", "/etc/hostname", "results/../../secret", "lab.toml", ""):
        content = {"lab": lab.name, "parts": {"x": {"run": "r", "files": {name: "0" * 64}}}}
        (tmp_path / MANIFEST).write_text(signing.signed(lab, "manifest", content))
        assert signing.seal(tmp_path).reason.startswith("is not a manifest"), name


def test_the_key_is_its_owners_alone_and_survives_down(recorded: Recorded) -> None:
    """The private one has mode 0600, the public one may be read; taking the lab down leaves both."""
    state = recorded.lab.state_dir
    before = (state / KEY).read_bytes()
    assert stat.S_IMODE((state / KEY).stat().st_mode) == 0o600
    assert (state / KEY).stat().st_uid == os.geteuid()
    assert stat.S_IMODE((state / PUBLIC).stat().st_mode) == 0o644
    recorded.own.labkit("down")
    assert (state / KEY).read_bytes() == before
    assert recorded.verify() == (0, {})


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    """Whoever is first; and a damaged key is an error with its remedy, not another key."""
    lab = Lab.of({"name": "keys", "state": str(tmp_path)})
    with ThreadPoolExecutor(8) as pool:
        made = {key.private_bytes_raw() for key in pool.map(lambda _: signing.key(lab), range(32))}
    assert len(made) == 1
    assert sorted(path.name for path in lab.state_dir.iterdir()) == [KEY, PUBLIC]
    (lab.state_dir / KEY).write_text("torn")
    with pytest.raises(StateError, match="move it away"):
        signing.key(lab)


#: Keeps a run of a stage in a child that is killed at its nth change of the file system, for every n, and says
#: after each what verification finds and which run is there.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from labkit import Lab
from labkit.report.stages import record as records; from labkit.report.site import review; from labkit.report.stages import signing
from labkit.report.stages.record import Entry
from tests import executed
from tests.test_review import PNG, figure, keep, result
lab = Lab.of(json.loads(sys.argv[1]))
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "open")
def counted(event, args):
    global left
    if event not in CHANGES or (event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
        return
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
def kept(run, summary):
    shown = result(summary, run=run)
    drawn = figure("line-" + run)
    executed.draw(lab, run, "line-" + run + ".png", PNG + run.encode())
    keep(lab, "04-network", Entry(cell=1, result=shown), Entry(cell=2, figure=drawn), run=run)
    review.build(lab)
number = 0
while True:
    number += 1
    if not (child := os.fork()):
        signing.public(lab)
        left = number
        sys.addaudithook(counted)
        kept(f"run{number}", "text")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done = records.verify(lab)
    wrong = [d.file for d in done.value.differences]
    record = records.read(lab, "04-network")
    print(json.dumps([number, wrong, record.run if record else "", os.WIFSIGNALED(status)]), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def test_killed_anywhere_the_outputs_are_the_old_run_or_the_new_one(tmp_path: Path) -> None:
    """A stage's files and the site are written whole: after SIGKILL at each step they verify."""
    lab = Lab.of({"name": "killed", **{n: str(tmp_path / n) for n in ("outputs", "state", "run")}})
    argv = [sys.executable, "-c", KILLED, lab.model_dump_json()]
    done = run.run(argv, env={"PYTHONPATH": str(ROOT)}, timeout=300)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(steps) > 30
    assert not steps[-1][3]
    before = ""
    for number, wrong, seen, _ in steps:
        assert set(wrong) <= ({MANIFEST} if not seen else set()), number  # nothing was signed yet
        assert seen in {before, f"run{number}"}, number
        before = seen
    assert before == f"run{len(steps)}"
    left = [path.name for path in lab.output_dir.iterdir() if path.name.startswith(".")]
    assert left == []


#: Runs the command as another account.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


def review_as(recorded: Recorded, *words: str) -> dict[str, Any]:
    """What ``labkit review`` says to another account."""
    done = recorded.own.labkit("review", "--json", *words, before=NOBODY)
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.root
def test_who_is_not_root_reviews_and_verifies(recorded: Recorded) -> None:
    """By the public key: the site is the same, no file is written, the private key stays closed. Where the outputs are
    theirs and the key is not, new pages are not signed: the site says so, verify names the pages, root signs them."""
    before = listing(recorded.outputs, recorded.lab.state_dir)
    assert not review_as(recorded)["changed"]
    done = recorded.own.labkit("verify", before=NOBODY)
    assert (done.status, done.stdout.count("this machine's key")) == (0, 2)
    key = str(recorded.lab.state_dir / KEY)
    assert run.run([*NOBODY, "cat", key], ok=range(256)).status == 1
    assert listing(recorded.outputs, recorded.lab.state_dir) == before
    for path in (recorded.outputs, *recorded.outputs.rglob("*")):
        os.chown(path, 65534, 65534)
    listed(recorded.lab, on("04-network", "REX> Both ways?"))  # other pages come of it
    found = review_as(recorded)
    assert found["changed"]
    (check,) = (c for c in found["checks"] if c["name"] == "review.signed")
    assert (check["holds"], check["again"]) == (False, "sudo labkit review")
    assert list(recorded.verify()[1]) == ["review/04-network.html", "review/index.html"]
    recorded.own.labkit("review")
    assert recorded.verify() == (0, {})


def test_outputs_of_another_machine_are_not_signed_anew(recorded: Recorded) -> None:
    """Where the key is not, a review leaves the manifest as it is: nobody signs what they did not make."""
    before = (recorded.outputs / MANIFEST).read_bytes()
    shutil.rmtree(recorded.lab.state_dir)
    listed(recorded.lab, on("04-network", "REX> Both ways?"))
    recorded.own.labkit("review")
    assert (recorded.outputs / MANIFEST).read_bytes() == before
    assert not signing.public(recorded.lab)
    status, found = recorded.verify()
    assert (status, list(found)) == (1, ["review/04-network.html", "review/index.html"])


def test_an_ordinary_user_has_a_key_of_their_own(recorded: Recorded, open_folder: Path) -> None:
    """A lab in folders of theirs is recorded, signed and verified without root."""
    before = () if os.geteuid() else NOBODY  # root acts as somebody else
    if before:
        os.chown(open_folder, 65534, 65534)
    own = Project(open_folder)
    shutil.copy(recorded.own.file, own.file)
    shutil.copytree(recorded.own.folder / "notebooks", open_folder / "notebooks")
    (open_folder / "lab").touch()
    own.file.write_text(own.file.read_text().replace(str(recorded.own.folder), str(open_folder)))
    done = own.labkit("run", STAGE, before=before)
    assert done.status == 0, done.stderr
    assert own.labkit("verify", before=before).status == 0
    seen = (own.lab.state_dir / KEY).stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o600, 65534 if before else os.geteuid())
