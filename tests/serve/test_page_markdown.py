"""Markdown on the chat page: a safe subset as elements, while the answer streams."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serve.conftest import Gateway
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_page import ask

pytestmark = pytest.mark.browser


def answer(page: Page, text: str) -> Locator:
    """The answer that the model gives, when all of it is there."""
    ask(page, Trouble.SAY + text)
    expect(page.get_by_label("Good answer").last).to_be_visible()
    return page.locator("div.text").last


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain\nin two lines", "<p>plain\nin two lines</p>"),
        ("one\n\ntwo", "<p>one</p><p>two</p>"),
        ("# Big\n### Small #", "<h3>Big</h3><h5>Small</h5>"),
        ("**bold** *soft* ~~gone~~", "<p><strong>bold</strong> <em>soft</em> <del>gone</del></p>"),
        ("***both***", "<p><strong><em>both</em></strong></p>"),
        ("**bold *and soft***", "<p><strong>bold <em>and soft</em></strong></p>"),
        ("a `co*d*e` b", "<p>a <code>co*d*e</code> b</p>"),
        ("2 * 3 * 4 and snake_case_name", "<p>2 * 3 * 4 and snake_case_name</p>"),
        (r"\*not\* soft", "<p>*not* soft</p>"),
        ("```py\n1 < 2\n\n# no\n```\nend", '<pre title="py"><code>1 &lt; 2\n\n# no</code></pre><p>end</p>'),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("Here:\n- a\n\nAfter", "<p>Here:</p><ul><li>a</li></ul><p>After</p>"),
        ("> said\n> she", "<blockquote><p>said\nshe</p></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        ("|a|b|\n|-|-|\n|1|**2**|", "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
         "<tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table>"),
    ],
)  # fmt: skip
def test_marks_become_elements(page: Page, text: str, html: str) -> None:
    assert answer(page, text).evaluate("node => node.innerHTML") == html


def test_links_lead_out_only_when_they_are_pressed(page: Page) -> None:
    text = "[here](https://example.test/a_b_(c)) or https://example.test/x. or [mail](mailto:a@example.test)"
    links = answer(page, text).locator("a")
    targets = [link.get_attribute("href") for link in links.all()]
    assert targets == [
        "https://example.test/a_b_(c)", "https://example.test/x", "mailto:a@example.test",
    ]  # fmt: skip
    for link in links.all():
        assert link.get_attribute("target") == "_blank"
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"


@pytest.mark.parametrize(
    "evil",
    [
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
        "[press](javascript:document.title='owned')",
        "[press](JaVaScRiPt:alert(1)) [data](data:text/html,x) [file](file:///etc/passwd) [here](/v1/models)",
        "![seen](http://elsewhere.test/pixel.png)",  # that nothing is fetched, the page's fixture sees
        "```\n</code></pre><img src=x>\n```",
        "# <svg onload=alert(1)>\n- <b>b</b>\n> <i>i</i>\n\n|<u>a</u>|b|\n|-|-|\n|1|2|",
    ],
)
def test_nothing_of_an_answer_is_html_or_runs(page: Page, evil: str) -> None:
    shown = answer(page, evil)
    assert shown.locator("img, script, svg, b, i, u").count() == 0
    for link in shown.locator("a").all():
        assert re.match(r"https?:", link.get_attribute("href") or "")
    assert page.title() == "hearken"


def test_marks_are_drawn_while_the_answer_streams(page: Page, fake: FakeVllm) -> None:
    ask(page, f"{Trouble.SAY_AND_HOLD}**bold** and `code` here")
    expect(page.locator(".writing strong")).to_have_text("bold")
    fake.release.set()
    expect(page.locator(".text code")).to_have_text("code")


def test_every_beginning_of_an_answer_can_be_drawn_and_blocks_that_stand_are_left_alone(page: Page) -> None:
    text = "# T\n\n- a\n- **b**\n\n```js\ncode\n```\n\n|a|b|\n|---|---|\n|1|2|\n\n> q\n\n1. x\n\nend *it*"
    result = page.evaluate(
        """async (text) => {
          const { show } = await import("/markdown.js");
          const grown = document.createElement("div"), whole = document.createElement("div");
          let first = null, kept = true;
          for (let end = 0; end <= text.length; end++) {
            show(grown, text.slice(0, end));
            if (end === 8) first = grown.firstElementChild;
            if (end > 8) kept &&= grown.firstElementChild === first;
          }
          show(whole, text);
          return [grown.innerHTML === whole.innerHTML, kept];
        }""",
        text,
    )
    assert result == [True, True]


def test_nothing_of_an_answer_sticks_out_at_any_width(page: Page) -> None:
    wide = "x" * 300
    answer(page, f"```\n{wide}\n```\n\n|{wide}|b|\n|-|-|\n|1|2|\n\n- {wide}\n\n> `{wide}`\n\n# {wide}")
    for width in (320, 768, 1400):
        page.set_viewport_size({"width": width, "height": 700})
        for place in ("document.documentElement", "document.querySelector('#scroller')"):
            assert page.evaluate(f"{place}.scrollWidth <= {place}.clientWidth"), (width, place)


def test_what_is_hard_to_read_takes_no_time(page: Page) -> None:
    took = page.evaluate(
        """async () => {
          const { show } = await import("/markdown.js");
          const hard = ["*a ", "**a ", "_a ", "[", "![a](", "`", "``a", "~~a ", "> ", "- ", "|-"];
          const begun = performance.now();
          for (const each of hard) show(document.createElement("div"), each.repeat(4000));
          return performance.now() - begun;
        }"""
    )
    assert took < 10_000


def test_the_conversation_has_the_text_as_it_was_written(
    page: Page, fake: FakeVllm, gateway: Gateway
) -> None:
    answer(page, "some **bold** words")
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_have_count(2)
    assert fake.requests[-1]["messages"][1]["content"] == "some **bold** words"
