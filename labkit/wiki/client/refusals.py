"""A wiki's refusals as errors: the reason and the remedy for each of MediaWiki's error codes.

The codes are MediaWiki's own (API: Errors and warnings; ``action=help``'s lists for edit and upload).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from labkit.errors import WikiError, excerpt

#: Refusals after which the page is read again and the edit made anew.
CONFLICTS = (
    "editconflict", "articleexists", "edit-already-exists", "edit-conflict", "edit-gone-missing", "missingtitle",
    "pagedeleted", "nosuchrevid",
)  # fmt: skip
#: Refusals of a session that was good once.
ENDED = ("assertuserfailed", "assertnameduserfailed", "badtoken", "notloggedin", "readapidenied")
#: Refusals that hold for a moment only; nothing was done.
LATER = ("maxlag", "ratelimited", "actionthrottledtext")
_EXEMPT = "exempt the bot's account from it"
_UNPROTECT = "unprotect the page, or let the bot's account edit it"
_RIGHT = "grant its bot password that right (create, edit and move pages; upload new files)"
_MEANING = {
    "readonly": ("the wiki is read-only now", "publish again when its owner has opened it"),
    "protectedpage": ("the page is protected", _UNPROTECT),
    "protectedtitle": ("the page's title is protected from being created", _UNPROTECT),
    "cascadeprotected": ("the page is protected, as part of another one", _UNPROTECT),
    "protectednamespace": ("the page's namespace is protected", _UNPROTECT),
    "protectednamespace-interface": ("the page is part of the wiki's interface", "name another page"),
    "permissiondenied": ("the bot's account may not do that", _RIGHT),
    "badaccess-groups": ("the bot's account may not do that", _RIGHT),
    "cantcreate": ("the bot's account may not make pages", _RIGHT),
    "noedit": ("the bot's account may not edit", _RIGHT),
    "writeapidenied": ("the bot's account may not write through the API", _RIGHT),
    "blocked": ("the bot's account is blocked", "unblock it"),
    "autoblocked": ("the address of this machine is blocked", "unblock it"),
    "ratelimited": ("the wiki limits how often the bot may write", "publish again in a minute: "
                    "what was saved stays, the rest follows"),
    "maxlag": ("the wiki's database lags behind", "publish again in a minute"),
    "contenttoobig": ("the page is larger than the wiki allows", "show less output in the notebooks, "
                      "or raise the wiki's $wgMaxArticleSize"),
    "abusefilter-disallowed": ("an abuse filter of the wiki refuses the text", _EXEMPT),
    "abusefilter-warning": ("an abuse filter of the wiki warns of the text", _EXEMPT),
    "abusefilter-throttled": ("an abuse filter of the wiki refuses so many edits", _EXEMPT),
    "spamblacklist": ("the wiki refuses an address in the text", _EXEMPT),
    "titleblacklist-forbidden": ("the wiki refuses the page's title", "name another page in wiki.page"),
    "captcha": ("the wiki asks for a captcha", "give the bot's account the right skipcaptcha"),
    "hookaborted": ("an extension of the wiki refuses the text", _EXEMPT),
    "invalidtitle": ("that is not a page's name on this wiki", "correct wiki.page"),
    "uploaddisabled": ("the wiki takes no uploads", "set its $wgEnableUploads"),
    "verification-error": ("the wiki refuses the picture's content", "see that it allows PNG files"),
    "filetype-banned": ("the wiki refuses the picture's kind", "add it to its $wgFileExtensions"),
    "filetype-banned-type": ("the wiki refuses the picture's kind", "add it to its $wgFileExtensions"),
    "file-too-large": ("the picture is larger than the wiki allows", "draw a smaller one, or raise the "
                       "wiki's $wgMaxUploadSize"),
    "empty-file": ("the picture is empty", "run its stage again"),
}  # fmt: skip


class ConflictError(WikiError):
    """Another edit was saved in the meantime: read the page again."""

    code = "wiki.conflict"


class SessionEndedError(WikiError):
    """The session has ended; the wiki did nothing."""

    code = "wiki.session-ended"


class UnansweredError(WikiError):
    """A write request got no answer: check on the wiki whether it took effect."""

    code = "wiki.unanswered"


class BusyError(UnansweredError):
    """The wiki's database was busy for a moment: check whether the request took effect, and try again."""

    code = "wiki.busy"


def refusal(what: str, code: str, info: str) -> WikiError:
    """The error for an error code of the API."""
    if code in CONFLICTS:
        return ConflictError(
            what, f"was saved by another person meanwhile ({code})", "publish again"
        )
    if code in ENDED:
        return SessionEndedError(what, f"the session has ended ({code})", "publish again")
    reason, remedy = _MEANING.get(
        code, ("the wiki refuses", "ask the wiki's owner what that means")
    )
    return WikiError(what, f"{reason} ({code}: {excerpt(info, 400)})", remedy, code="wiki.refused")


def unsaved(what: str, answer: Mapping[str, Any]) -> WikiError:
    """The error for an edit or upload that failed although the API's answer is not an error."""
    for code in ("captcha", "spamblacklist"):
        if code in answer:
            return refusal(what, code, words({code: answer[code]}))
    return refusal(what, str(answer.get("code", "refused")), words(answer))


def words(answer: Mapping[str, Any]) -> str:
    """The text of a refusal, shortened and without tokens."""
    said: Iterable[str] = (f"{name} {value}" for name, value in answer.items() if name != "token")
    return excerpt(", ".join(said))
