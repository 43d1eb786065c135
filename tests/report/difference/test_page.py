"""The page of a difference in a real browser: what is seen, by mouse, by keyboard and on a phone, of any document."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memexp.config.groups import Scored
from memexp.report.difference.breakdown import break_down
from memexp.report.difference.files import summary
from memexp.report.difference.page import page
from memexp.report.difference.token_text import find_text, word
from memexp.report.difference.tokens import difference
from memexp.store.folder import RETRIEVED
from memexp.store.scores import find_score, load_scores

DOCUMENT = [
    b"<script>", b"window.hacked = 1", b"</script>", b"\n", b"<img src=x onerror=", b"'window.hacked=1'>", b"&lt;b>",
    b" \xe4", b"\xb8", b"\xad", b"\x1b[31m", b" cite", b" foo_bar", b" 42", b"\n", b" foo_bar", b" end",
]  # fmt: skip
"""The pieces of a document that is full of markup; three of them are one character."""
GAINS = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.7, -3.0, 0.6, 0, 5.0, 0.25]
SECOND = 700
"""Tokens of the second document, one of which gains."""


@pytest.fixture
def path(fakes: Any, words: dict[int, bytes]) -> Path:
    """A page of two documents; the one token that gains most read its memory at the one before it that is alike."""
    words |= {1000 + at: piece for at, piece in enumerate(DOCUMENT)} | {2000: b"plain ", 2001: b"gain\n"}
    tokens = [[1000 + at for at in range(len(DOCUMENT))], [2001 if at == 650 else 2000 for at in range(SECOND)]]
    a = [[6.0] * len(DOCUMENT), [2.0] * SECOND]
    b = [[6.0 - gain for gain in GAINS], [1.0 if at == 650 else 2.0 for at in range(SECOND)]]
    ids = ["</script><b>first", "second"]
    fakes.score(fakes.run("a-run", arch="xl", mem=64), a, tokens=tokens, ids=ids)
    score = fakes.score(fakes.run("b-run", mem=512), b, tokens=tokens, ids=ids)
    places = np.zeros((len(DOCUMENT) + SECOND, 2), dtype=RETRIEVED)
    places[15] = [(3, 0.25), (12, 0.125)]  # the token before, 14, read tokens 11 and 2, which 12 and 3 follow
    np.save(score.path / "retrieved.npy", places)
    found = difference(*(load_scores(*find_score(fakes.root, name, Scored())) for name in "ab"))
    pieces, _, _ = find_text(found, fakes.root)
    wording = word(found, pieces)
    breakdown = break_down(found, wording.kind_N, None)
    path = Path(fakes.root / "index.html")
    path.write_text(page(found, summary(found, breakdown), breakdown, wording))
    return path


def opened(browser: Any, path: Path) -> Any:
    browser.get("about:blank")
    browser.get(path.as_uri())
    wait(browser, "document.documentElement.dataset.drawn")
    return browser


def wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10, poll_frequency=0.02).until(lambda it: it.execute_script(f"return {condition}"))


def at(browser: Any, index: int) -> Any:
    """The element of a token of the document that is shown."""
    return browser.execute_script("return document.querySelectorAll('#text span')[arguments[0]]", index)


def text(browser: Any, id: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", id))


def put(browser: Any, id: str, value: str) -> None:
    """Choose or type as a user does."""
    event = "input" if id in ("least", "search") else "change"
    browser.execute_script(
        "const it = document.getElementById(arguments[0]); it.value = arguments[1]; it.dispatchEvent(new Event(arguments[2]))",
        id, value, event,
    )  # fmt: skip


def keys(browser: Any, pressed: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser, duration=0).send_keys(pressed).perform()


def test_a_document_full_of_markup_is_text(browser: Any, path: Path) -> None:
    opened(browser, path)
    shown = browser.execute_script("return document.getElementById('text').textContent")
    assert shown == "<script>window.hacked = 1</script>\n<img src=x onerror='window.hacked=1'>&lt;b> 中\\x1b[31m" + (
        " cite foo_bar 42\n foo_bar end"
    )
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img, #text script, #text b').length") == 0
    assert "</script><b>first (17 tokens" in text(browser, "document")
    assert browser.get_log("browser") == []  # nothing was blocked, nothing failed
    assert "://" not in path.read_text()  # and nothing is of another place


def test_the_evidence_stands_before_the_text(browser: Any, path: Path) -> None:
    opened(browser, path)
    top = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    places = [browser.execute_script(top, one) for one in (".evidence", "#tools", "#text", ".groups")]
    assert places == sorted(places)
    assert places[0] < 300  # it begins on the first screen
    assert browser.find_element("css selector", ".evidence .number").text == "0.1 %"  # one of 717 tokens makes half
    titles = [one.text for one in browser.find_elements("css selector", "caption")]
    assert [title.split()[1] for title in titles] == ["distance", "kind", "frequency", "position"]
    assert "not scored" in browser.find_element("css selector", ".pair").text
    rows = [one.text.split() for one in browser.find_elements("css selector", ".evidence tbody tr")]
    assert ["number", "1", "+0.6000", "13.2", "%"] in rows


def test_hover_shows_losses_and_what_was_read(browser: Any, path: Path) -> None:
    from selenium.webdriver import ActionChains

    opened(browser, path)
    ActionChains(browser, duration=0).move_to_element(at(browser, 15)).perform()
    wait(browser, "document.querySelector('#detail h2')?.textContent === '« foo_bar»'")
    told = text(browser, "detail").split("\n")
    assert told[1:9] == ["gain", "+5.000 nats", "loss in A", "6.000", "loss in B", "1.000", "kind", "identifier"]
    assert told[9:11] == ["position", "16"]
    assert "3 tokens before, 25.0 % of attention" in told
    assert "12 tokens before, 12.5 % of attention" in told
    read = [
        element.text.strip()
        for element in browser.find_elements("css selector", "#detail .around b, #detail .around u")
    ]
    assert read[:2] == ["cite", "foo_bar"]
    assert read[2] == "</script>"
    assert [one.text for one in browser.find_elements("css selector", "#text .read")] == ["</script>", " cite"]


def test_jumps_go_by_size_through_all_documents(browser: Any, path: Path) -> None:
    opened(browser, path)
    assert text(browser, "count") == "– of 5"  # half a nat and more
    seen = []
    for _ in range(6):
        browser.find_element("id", "next").click()
        seen.append(
            browser.execute_script(
                "return [document.activeElement.textContent, document.getElementById('document').value]"
            )
        )
    assert seen == [
        [" foo_bar", "0"],
        ["gain\n", "1"],
        [" cite", "0"],
        [" 42", "0"],
        [" foo_bar", "0"],
        [" foo_bar", "0"],
    ]
    assert text(browser, "count") == "1 of 5"
    browser.find_element("id", "previous").click()
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    wait(browser, "document.documentElement.dataset.drawn")
    assert "−3.000 nats" in text(browser, "detail")  # the address of the page leads to the token in focus


def test_filters_and_search(browser: Any, path: Path) -> None:
    opened(browser, path)

    def coloured() -> list[int]:
        found: list[int] = browser.execute_script(
            "return [...document.querySelectorAll('#text span')].flatMap((it, i) => /[gl][1-4]/.test(it.className) && "
            "!it.classList.contains('off') ? [i] : [])"
        )
        return found

    assert coloured() == [11, 12, 13, 15]
    put(browser, "side", "loss")
    assert coloured() == [12]
    assert text(browser, "count") == "– of 1"
    put(browser, "side", "both")
    put(
        browser,
        "kind",
        next(
            one.get_attribute("value")
            for one in browser.find_elements("css selector", "#kind option")
            if one.text == "number"
        ),
    )
    assert coloured() == [13]
    put(browser, "kind", "")
    put(browser, "least", "4")
    wait(browser, "document.getElementById('count').textContent === '– of 1'")
    assert coloured() == [15]
    put(browser, "least", "0.7")  # which is more than the nearest number of 32 bits
    wait(browser, "document.getElementById('count').textContent === '– of 4'")
    assert coloured() == [11, 12, 15]  # and one of the second document
    put(browser, "least", "0")
    put(browser, "search", "FOO_bar 4")  # in two tokens
    wait(browser, "document.getElementById('count').textContent === '– of 2'")
    assert coloured() == [12, 13]
    put(browser, "search", "nowhere")
    wait(browser, "document.getElementById('count').textContent === 'no matching token'")
    keys(browser, "n")


def test_all_of_it_by_keyboard(browser: Any, path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, path)
    focused = "return document.activeElement.textContent"
    keys(browser, "n")
    assert browser.execute_script(focused) == " foo_bar"
    keys(browser, Keys.ARROW_RIGHT)
    assert browser.execute_script(focused) == " end"
    assert "+0.250" in text(browser, "detail")
    keys(browser, Keys.ARROW_RIGHT)  # there is no token behind the last one
    keys(browser, Keys.ARROW_LEFT * 4)
    assert browser.execute_script(focused) == " foo_bar"
    assert "−3.000" in text(browser, "detail")
    keys(browser, "/42" + Keys.ENTER)
    assert browser.execute_script(focused) == " 42"
    assert text(browser, "count") == "1 of 1"
    keys(browser, "p")
    assert browser.execute_script("return document.querySelectorAll('#text [tabindex]').length") == 1
    browser.execute_script("document.getElementById('document').focus()")
    stops = []
    for _ in range(8):
        keys(browser, Keys.TAB)
        stops.append(browser.execute_script("return document.activeElement.id || document.activeElement.className"))
    assert stops == ["side", "least", "kind", "search", "order", "previous", "next", "place"]
    keys(browser, Keys.TAB)
    assert browser.execute_script(focused) == " 42"  # the text is one stop


def test_another_document_is_walked_through_from_its_start(browser: Any, path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, path)
    keys(browser, "n" + Keys.ARROW_RIGHT)
    put(browser, "document", "1")
    assert "Hover, tap or focus" in text(browser, "detail")  # what was told is of the other one
    browser.execute_script("document.getElementById('place').focus()")
    place = "return [...document.querySelectorAll('#text span')].indexOf(document.activeElement)"
    keys(browser, Keys.TAB)
    assert browser.execute_script(place) == 0
    assert "plain" in text(browser, "detail")
    keys(browser, Keys.ARROW_RIGHT * 3)
    assert browser.execute_script(place) == 3


def test_a_phone_sees_no_more_than_its_width(browser: Any, path: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        opened(browser, path)
        browser.find_element("id", "next").click()
        assert browser.execute_script("return document.documentElement.scrollWidth <= 390")
        box = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
        here, sheet = (browser.execute_script(box, one) for one in ("#text .here", "#detail"))
        assert here["top"] >= 0
        assert here["bottom"] <= sheet["top"]
        assert sheet["bottom"] <= 800
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
