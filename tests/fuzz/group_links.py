"""Links to a server that misbehaves, and links that lead nowhere."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis.strategies as st

import seen
from group_pictures import _pixels
from running import often
from server import address, path_of, picture_bytes
from verdict import NotRefusedError, OtherValueError, Recipe, accepting

STATUSES = (200, 201, 204, 206, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503)
ODD_LINKS = (
    *("http://", "https://", "http://[", "http://127.0.0.1:1/a.png", "http://127.0.0.1:99999/a.png", "http:///a.png"),
    *(
        "ftp://127.0.0.1/a.png",
        "file:///absent.png",
        "file://elsewhere/a.png",
        "file:///",
        "gopher://a",
        "s3://a/b.png",
    ),
    *(
        "data:",
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:text/html,<html>",
        "data:image/png,x",
    ),
    *(
        "http://a b/c",
        "http://\u2603.invalid/a.png",
        "http://user:word@127.0.0.1:1/a.png",
        "javascript:alert(1)",
        "~/absent",
    ),
)
SECONDS = 2.0  # for a picture as a whole, in place of 20: so that a slow server does not slow the tests
REDIRECTS_THAT_ARE_FINE = 3
TOO_MANY_REDIRECTS = 40


def recipes() -> st.SearchStrategy[Recipe]:
    answer = {
        "status": st.sampled_from((200,) * 24 + STATUSES),
        "body": st.sampled_from(("picture",) * 16 + ("cut", "html", "html", "json", "text", "empty", "big", "endless")),
        "type": st.sampled_from(("image/png", "image/png", "text/html", "application/octet-stream", "", "x" * 500)),
        "length": st.sampled_from(("right",) * 6 + ("none",) * 6 + ("short", "long", "huge", "odd")),
        "pace": st.sampled_from(("at once",) * 28 + ("slow", "slow", "drip", "never")),
        "redirects": st.sampled_from((0, 0, 0, 0, 1, 2, 3, TOO_MANY_REDIRECTS)),
        "moved": st.sampled_from((301, 302, 303, 307, 308, 300, 304)),
        "to": st.sampled_from(("path", "absolute", "absolute", "loop", "file", "data", "ftp", "none")),
    }
    scheme = {"scheme": st.sampled_from(("http", "HTTP", "Http", " http"))}
    answers = st.fixed_dictionaries({"what": st.just("answer"), **answer, **scheme})
    odd = st.fixed_dictionaries(
        {"what": st.just("link"), "link": st.sampled_from(ODD_LINKS), "end": st.text(max_size=3)}
    )
    return often(answers, answers, answers, odd)


def check(recipe: Recipe) -> None:
    with _short_waits():
        if recipe["what"] == "link":
            _pixels(recipe["link"] + recipe["end"], None)
            raise NotRefusedError("a link to nothing")
        _check_answer(recipe)


@contextmanager
def _short_waits() -> Iterator[None]:
    """Sets the limits of time that the package's modules name, whichever module that is."""
    found = [
        (module, name)
        for path, module in list(sys.modules.items())
        if path.startswith("deepseek_vl_hf.pictures")
        for name, value in list(vars(module).items())
        if name.isupper() and "SECONDS" in name and isinstance(value, (int, float))
    ]
    before = [(module, name, getattr(module, name)) for module, name in found]
    for module, name in found:
        setattr(module, name, SECONDS)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _check_answer(recipe: Recipe) -> None:
    wanted = {name: recipe[name] for name in recipe if name not in ("what", "scheme")}
    link = f"{recipe['scheme']}://{address()}{path_of(wanted)}"
    expected = seen.of_file(io.BytesIO(picture_bytes()), None)
    assert expected is not None
    if _is_good(recipe):
        with accepting("a good link"):
            found = _pixels(link, None)
    else:
        try:
            found = _pixels(link, None)
        except (ValueError, OSError) as error:
            _check_words(recipe, str(error))
            raise
        if _is_bad(recipe):
            raise NotRefusedError("no picture, or none that may be fetched")
    if seen.difference(found, expected) != 0:
        raise OtherValueError("another picture")


def _is_good(recipe: Recipe) -> bool:
    arrives = recipe["status"] == 200 and recipe["body"] == "picture" and recipe["pace"] in ("at once", "slow")
    framed = recipe["length"] in ("right", "none")
    return arrives and framed and (not recipe["redirects"] or _redirects_are_good(recipe))


def _redirects_are_good(recipe: Recipe) -> bool:
    few = recipe["redirects"] <= REDIRECTS_THAT_ARE_FINE
    return few and recipe["moved"] in (301, 302, 303, 307, 308) and recipe["to"] in ("path", "absolute")


def _is_bad(recipe: Recipe) -> bool:
    """Whether nothing may come of it; what is left may be refused or be right, such as a wrong length."""
    lost = recipe["redirects"] and (
        recipe["to"] not in ("path", "absolute") or recipe["redirects"] == TOO_MANY_REDIRECTS
    )
    # The large body begins with the picture, and a length that is too short ends it before it is too large.
    picture = recipe["body"] == "picture" or (recipe["body"] == "big" and recipe["length"] == "short")
    return bool(lost or recipe["status"] != 200 or not picture or recipe["pace"] in ("drip", "never"))


def _check_words(recipe: Recipe, message: str) -> None:
    """A status that is the only fault is named, and so is a page in place of a picture."""
    if recipe["redirects"] or recipe["pace"] != "at once" or recipe["length"] not in ("right", "none"):
        return
    if recipe["status"] not in (200, 204) and str(recipe["status"]) not in message:
        raise OtherValueError(f"the error does not name the status {recipe['status']}: {message}"[:300])
    is_page = recipe["status"] == 200 and recipe["body"] == "html" and recipe["type"] == "text/html"
    if is_page and not any(word in message.lower() for word in ("page", "html")):
        raise OtherValueError(f"the error does not say that it is a page: {message}"[:300])
