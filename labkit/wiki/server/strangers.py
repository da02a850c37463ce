"""What the wiki refuses to who has no account, by trying it."""

from __future__ import annotations

from labkit.checks import Check, equal
from labkit.core.result import Outcome, action
from labkit.display import curl
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import ask
from labkit.wiki.client.folders import api_url, origin

#: Addresses at which a careless web server would give MediaWiki's secrets or its programs away.
HIDDEN = (
    "/w/LocalSettings.php",
    "/w/maintenance/install.php",
    "/w/mw-config/index.php",
    "/w/vendor/autoload.php",
    "/w/cache/",
    "/images/../passwords.json",
    "/sqlite/wiki.sqlite",
)


class Refusals(Record):
    """What the wiki answered to who has no account, by what was tried."""

    answers: tuple[tuple[str, str], ...]


@action("wiki.closed")
def refused(lab: Lab) -> Outcome[Refusals]:
    """What the wiki refuses to who has no account: an edit, an account, the server's own files.

    Each is really tried on the lab's own wiki; an existing one is only asked for the rights.
    """
    tried = _anonymous_rights(lab) if lab.wiki.url else _attempts(lab)
    return Outcome(
        value=Refusals(answers=tuple((check.name, check.seen) for check in tried)),
        subject=api_url(lab),
        summary=f"{sum(check.holds for check in tried)} of {len(tried)} attempts without an account "
        "were refused.",
        checks=tuple(tried),
    )


def _attempts(lab: Lab) -> list[Check]:
    edit = {"action": "edit", "title": "Anonymous edit", "text": "x", "token": "+\\"}
    statuses = [f"{path}: {ask.fetch(lab, origin(lab) + path).status}" for path in HIDDEN]
    served = [line for line in statuses if line.endswith(": 200")]
    return [
        equal(
            "wiki.closed.edit", "permissiondenied", answer_code(ask.query(lab, edit, post=True)),
            again=curl(api_url(lab), options="--data 'action=edit&title=x&text=x&token=%2B%5C'"),
        ),
        equal(
            "wiki.closed.sign-up", "permissiondenied", _sign_up(lab),
            again=f"{origin(lab)}/wiki/Special:CreateAccount",
        ),
        Check(
            name="wiki.closed.files", expected=f"none of {len(HIDDEN)} addresses is served",
            seen="; ".join(served or statuses), holds=not served,
            again=curl(f"{origin(lab)}{HIDDEN[0]}", options="--include"),
        ),
    ]  # fmt: skip


def _sign_up(lab: Lab) -> str:
    """What the wiki answers to a stranger who wants an account."""
    reply = ask.call(lab, {"action": "query", "meta": "tokens", "type": "createaccount"})
    cookie = "; ".join(
        value.partition(";")[0] for value in reply.headers.get_all("Set-Cookie") or ()
    )
    token = ask.parsed(reply)["query"]["tokens"]["createaccounttoken"]
    word = "a-stranger-without-rights"
    given = {
        "action": "createaccount",
        "createtoken": token,
        "createreturnurl": origin(lab),
        "username": "Stranger",
        "password": word,
        "retype": word,
    }
    return answer_code(ask.query(lab, given, post=True, cookie=cookie))


def answer_code(answer: dict[str, dict[str, str]]) -> str:
    """The code of the API's answer: of its error, or of what the request came to."""
    if "error" in answer:
        return answer["error"]["code"]
    outcome = next(iter(answer.values()))
    return str(outcome.get("messagecode") or outcome.get("status") or outcome.get("result"))


def _anonymous_rights(lab: Lab) -> list[Check]:
    answer = ask.query(lab, {"action": "query", "meta": "userinfo", "uiprop": "rights"})
    held = answer["query"]["userinfo"]["rights"]
    return [
        Check(
            name=f"wiki.closed.{name}", expected=f"no right {right!r} without an account",
            seen=f"{right!r} is {'there' if right in held else 'missing'}", holds=right not in held,
            again=curl(f"{api_url(lab)}?action=query&meta=userinfo&uiprop=rights&format=json"),
        )
        for name, right in (("edit", "edit"), ("sign-up", "createaccount"))
    ]  # fmt: skip
