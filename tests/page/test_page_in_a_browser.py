"""The page for people in a real Chromium, in front of a real process tree."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from tests.page.browser import Browser
from tests.support.sidecar_app import ask
from tests.support.tree import ARTIFACTS, Tree, eventually, free_port, serving

PHONE = (360, 740)
GROWING = """
    window.windows = 3;
    const real = window.fetch;
    window.fetch = async (...a) => {
        const told = await (await real(...a)).json(), n = window.windows;
        const rows = Array.from({length: n}, (_, i) => [10 * (i + 1), .4 * i, .2 * i, -.3 * i]);
        told.rollout = {rollout: 'r1', decision: n > 9 ? 'rollback' : 'hold', final: n > 9, phase: n > 9 ? 'ended' : 'judging',
            since: told.now, for_s: 0, elapsed_s: 10 * n, max_s: 1800, stage: 1, windows: n, flags: ['one_instance'],
            reasons: [{code: n > 9 ? 'candidate_worse' : 'not_yet_proven', about: 'errors', words: '9 of 900 in the candidate'}],
            arms: {baseline: {instances: ['b:1'], missing: {}, requests: 900, client_errors: 1, shed: 0},
                   candidate: {instances: ['c:1', 'c:2'], missing: {'c:2': 'timed out'}, requests: 880, client_errors: 0,
                               shed: 2}},
            metrics: {errors: {candidate: {requests: 880, bad: 9}, reference: {requests: 900, bad: 3}, rollback_at: 300,
                count_e: 10 ** (.4 * n), sign_e: 10 ** (.2 * n), good_e: .01, promote_at: 40, ratio: {low: .8, high: null}}},
            evidence: {fields: ['at_s', 'count', 'sign', 'good'], metrics: {errors: rows}}};
        return new Response(JSON.stringify(told));
    };
"""
SEVEN = (ARTIFACTS / "digits/samples/seven.json").read_bytes()


@pytest.fixture(scope="module")
def tree() -> object:
    with serving("digits") as tree:
        yield tree


def shown(browser: Browser, tree: Tree) -> Browser:
    browser.open(f"http://127.0.0.1:{tree.side}/")
    eventually(lambda: browser.text("verdict") != "…", "the page has its first status")
    return browser


def with_a_rollout(browser: Browser, rollout: str) -> None:
    if rollout:
        browser.run(GROWING)
        eventually(lambda: "▲ Hold" in browser.text("rollout-verdict"), "the rollout is shown")


def test_a_ready_container_shows_its_verdict_its_model_its_replicas_and_its_curve(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    assert "● Ready" in browser.text("verdict")
    assert browser.driver.title.startswith("● Ready")
    assert "digits, version 1" in browser.text("models")
    assert "Engine 0: ● ready" in browser.text("replicas")
    assert "Warm-up curve" in browser.text("replicas")
    assert "loading" in browser.text("transitions").lower()
    assert browser.run("return document.getElementById('s-conditions').hidden") is True


def test_traffic_draws_lines_whose_text_alternative_tells_the_same(browser: Browser, tree: Tree) -> None:
    with tree.wire() as wire:
        for _ in range(50):
            assert wire.post(SEVEN).status == 200
    shown(browser, tree)
    script = "return [...document.querySelectorAll('#charts svg')].map((s) => s.getAttribute('aria-label'))"
    labels = eventually(lambda: [x for x in browser.run(script) if "requests now" in x and "highest 0/s" not in x.split(";")[0]],
                        "the throughput chart has seen the requests")  # fmt: skip
    assert labels[0].startswith("Throughput over the last 10 minutes")
    lines = browser.run("return [...document.querySelectorAll('#charts path')].map((p) => p.getAttribute('d'))")
    assert any(len(d) > 20 for d in lines)


def test_a_killed_engine_is_shown_as_a_fault_and_the_page_recovers_without_a_reload(browser: Browser) -> None:
    with serving("digits") as tree:
        shown(browser, tree)
        browser.run("""
            window.verdicts = [];
            const look = () => window.verdicts.push(document.getElementById('verdict').innerText);
            new MutationObserver(look).observe(document.getElementById('verdict'), {childList: true});
        """)
        killed = tree.pid_of("engine")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: "signal" in browser.text("faults"), "the fault is shown")
        eventually(lambda: tree.pid_of("engine") != killed and tree.ping() == 200, "another engine serves")
        eventually(lambda: "1 restart ·" in browser.text("replicas") and "Ready" in browser.text("verdict"), "ready again")
        assert "engine lost" in browser.text("transitions")
        assert "start 2" in browser.text("transitions")
        assert str(tree.pid_of("engine")) in browser.text("replicas")
        assert complaints(browser) == []


def test_a_drain_is_shown_while_it_lasts_and_then_that_nobody_answers(browser: Browser) -> None:
    tree = Tree("digits", EVENKEEL_QUIET_S="10").wait_ready()
    try:
        shown(browser, tree)
        tree.tell(signal.SIGTERM)
        eventually(lambda: "▼ Draining" in browser.text("verdict"), "the page says that it drains")
        assert "the container is stopping" in browser.text("verdict")
        assert "staying" in browser.text("conditions")
        eventually(lambda: "does not answer" in browser.text("silence"), "the page says that nobody answers")
        assert browser.run("return document.getElementById('silence').getAttribute('role')") == "alert"
        assert browser.driver.title.startswith("■ No answer")
        assert tree.process.wait(30) == 0
    finally:
        tree.kill()


@pytest.mark.parametrize("rollout", ["", "rollout"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_reaches_beyond_the_screen(browser: Browser, tree: Tree, scheme: str, rollout: str) -> None:
    browser.screen(*PHONE)
    browser.prefer(scheme)
    shown(browser, tree)
    with_a_rollout(browser, rollout)
    assert browser.run("return window.innerWidth") == PHONE[0]
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    beyond = browser.run("""
        return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1)
            .map((e) => e.tagName + '#' + e.id + ' ' + e.textContent.slice(0, 40));
    """)
    assert beyond == []


ROLLOUT_TOKEN = "a-token-of-the-page-tests"


def judged(tree: Tree) -> None:
    """Two real instances, of which one is the tree itself and the other does not exist, so that both are seen."""
    order = {"baseline": [f"127.0.0.1:{tree.port}"], "candidate": [f"127.0.0.1:{free_port()}"], "id": "r1", "window_s": 0.5,
             "max_minutes": 1, "split": "unchecked"}  # fmt: skip
    assert ask(tree.side, "/rollout", "POST", order, Authorization=f"Bearer {ROLLOUT_TOKEN}").status == 202


def test_a_rollout_that_is_being_judged_is_shown_from_its_naming_to_its_end(browser: Browser) -> None:
    with serving("digits", EVENKEEL_ADMIN_TOKEN=ROLLOUT_TOKEN) as tree:
        shown(browser, tree)
        assert browser.run("return document.getElementById('s-rollout').hidden") is True
        judged(tree)
        eventually(lambda: "▲ Hold" in browser.text("rollout-verdict"), "the rollout is shown")
        assert "r1" in browser.text("rollout-verdict") and "waiting until every instance" in browser.text("rollout-verdict")
        eventually(lambda: "is missing:" in browser.text("rollout-arms"), "the missing instance is named")
        assert f"● 127.0.0.1:{tree.port}" in browser.text("rollout-arms")
        assert ask(tree.side, "/rollout", "DELETE", Authorization=f"Bearer {ROLLOUT_TOKEN}").status == 200
        eventually(lambda: browser.run("return document.getElementById('s-rollout').hidden") is True, "it has ended")
        assert complaints(browser) == []


def test_the_evidence_grows_on_the_page_and_the_verdict_changes_with_it(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    browser.run(GROWING)
    eventually(lambda: "▲ Hold" in browser.text("rollout-verdict"), "the rollout is shown")
    assert "not yet proven – errors: 9 of 900 in the candidate" in browser.text("rollout-reasons")
    assert "one instance" in browser.text("rollout-reasons")
    assert "30 s of 30 min 0 s at most in 3 windows · stage 1" in browser.text("rollout-since")
    assert "■ c:2 is missing: timed out" in browser.text("rollout-arms") and "● c:1" in browser.text("rollout-arms")
    assert "9 of 880 in the candidate, 3 of 900 in the reference; ratio 0.8 to any" in browser.text("rollout-evidence")
    line = "return document.querySelector('#rollout-evidence path').getAttribute('d')"
    before = browser.run(line)
    browser.run("window.windows = 10")
    eventually(lambda: "■ Roll back" in browser.text("rollout-verdict"), "the verdict has changed")
    assert "final" in browser.text("rollout-verdict") and "candidate worse" in browser.text("rollout-reasons")
    after = browser.run(line)
    assert (before.count("L"), after.count("L")) == (2, 9)
    assert browser.run("return document.getElementById('rollout-verdict').getAttribute('aria-live')") == "polite"
    label = browser.run("return document.querySelector('#rollout-evidence svg').getAttribute('aria-label')")
    assert label.startswith("errors, evidence over 1 min 40 s: worse by the errors 10,000 and by blocks 100, both of 300")
    assert complaints(browser) == []


def luminance(colour: str) -> float:
    """Relative, of `rgb(r, g, b)`, after WCAG 2."""
    parts = [int(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("rollout", ["", "rollout"])
@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_every_text_stands_out_from_its_ground_in_both_schemes(
    browser: Browser, tree: Tree, scheme: str, dark: bool, rollout: str
) -> None:
    browser.prefer(scheme)
    shown(browser, tree)
    with_a_rollout(browser, rollout)
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.1) is dark
    pairs = browser.run("""
        const card = getComputedStyle(document.querySelector('section')).backgroundColor;
        const leaf = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        return [...document.querySelectorAll('body *:not(script)')].filter(leaf)
            .map((e) => [getComputedStyle(e).color, e.closest('section') ? card : null, e.textContent.slice(0, 30)]);
    """)
    weak = []
    for colour, card, text in pairs:
        light, deep = sorted((luminance(colour), luminance(card or ground)), reverse=True)
        if (light + 0.05) / (deep + 0.05) < 4.5:  # WCAG 2, level AA
            weak.append((text, colour, card or ground))
    assert pairs and weak == []


def test_nothing_is_complained_of_and_no_request_leaves_the_origin(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    first = browser.text("since")
    eventually(lambda: browser.text("since") != first, "it is alive")
    assert complaints(browser) == []
    ours = {origin for origin in browser.origins() if not origin.startswith("chrome")}  # its own pages, such as a new tab's
    assert ours == {f"http://127.0.0.1:{tree.side}"}


def complaints(browser: Browser) -> list[str]:
    return [entry["message"] for entry in browser.console()]


def test_the_policy_stops_scripts_that_are_not_the_pages_own(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    browser.run("""
        const script = document.createElement('script');
        script.textContent = 'window.injected = true';
        document.body.append(script);
        const image = document.createElement('div');
        image.innerHTML = '<img src=x onerror="window.injected = true">';
        document.body.append(image);
    """)
    assert any("Content Security Policy" in c for c in complaints(browser))
    assert browser.run("return window.injected === undefined") is True


def test_what_status_tells_is_put_in_as_text_and_never_as_html(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    evil = "<img src=x><b id='evil'>bold</b>"
    browser.run(
        "const evil = "
        + repr(evil)
        + """, real = window.fetch, kept = ['fields', 'state'];
        const each = (x) => Object.fromEntries(Object.entries(x).map(([k, v]) => [k, kept.includes(k) ? v : spoil(v)]));
        const spoil = (x) => typeof x === 'string' ? evil : Array.isArray(x) ? x.map(spoil) : x instanceof Object ? each(x) : x;
        window.fetch = async (...a) => {
            const told = spoil(await (await real(...a)).json());
            told.faults = [{at_s: 1, subject: evil, reason: evil, count: 2, message: evil}];
            return new Response(JSON.stringify(told));
        };
    """
    )
    eventually(lambda: evil in browser.text("faults"), "the text is shown as it is")
    assert evil in browser.text("models") and evil in browser.text("transitions")
    assert browser.run("return document.querySelectorAll('img, #evil').length") == 0


def test_a_warming_replica_shows_its_progress_and_what_its_engine_explains(browser: Browser, tree: Tree) -> None:
    """The engine's text as the contract has it, on top of a real status."""
    shown(browser, tree)
    browser.run("""
        const real = window.fetch;
        window.fetch = async (...a) => {
            const told = await (await real(...a)).json();
            Object.assign(told, {ready: false, reason: 'warming', state: 'WARMING'});
            Object.assign(told, {clears_when: 'warm-up passes', ready_in_s: 7.5});
            told.conditions[3] = {name: 'warm', ok: false, missing: 'no loaded engine has passed'};
            told.models[0].sha256 = 'ab'.repeat(32);
            Object.assign(told.replicas[0], {
                state: 'WARMING', progress: 'warming 3 of 12', warm_done: 3, warm_total: 12, ready_in_s: 7.5,
                startup: {import_s: 0.5, unpack_s: null, load_s: 1.5, total_s: 2},
                warmup: {plan: [{key: 'image', rows: 8, runs: 5, seconds: 0.002, converged: true},
                                {key: 'image', rows: 16, runs: 40, seconds: 0.004, converged: false}],
                         seconds: 1, golden: {checked: 4, passed: 3}},
                failure: {reason: 'golden_failed', message: 'scores differ'},
            });
            return new Response(JSON.stringify(told));
        };
    """)
    eventually(lambda: "▲ Not ready: warming" in browser.text("verdict"), "it is shown as warming")
    assert "clears when warm-up passes" in browser.text("verdict") and "ready in about 7.5 s" in browser.text("since")
    assert "✗ warm – no loaded engine has passed" in browser.text("conditions")
    assert "ab" * 32 in browser.text("models").replace("\n", "")
    replica = browser.text("replicas")
    assert "▲ warming 3 of 12" in replica and "golden failed: scores differ" in replica
    assert browser.run("const p = document.querySelector('progress'); return [p.value, p.max, p.ariaLabel]") == [
        3, 12, "warming 3 of 12",
    ]  # fmt: skip
    assert "3 of 4 checks passed" in replica
    whole = browser.run("return document.getElementById('replicas').textContent")
    assert "load: 1.5 s" in whole and "unpack" not in whole
    assert "image, 8 rows: 2 ms after 5 runs" in whole and "after 40 runs, not settled" in whole
    assert complaints(browser) == []


@pytest.mark.parametrize("rollout", ["", "rollout"])
def test_a_screen_reader_finds_landmarks_headings_in_order_and_a_text_for_every_chart(
    browser: Browser, tree: Tree, rollout: str
) -> None:
    shown(browser, tree)
    with_a_rollout(browser, rollout)
    levels = browser.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    for landmark in ("header", "main", "footer"):
        assert browser.run(f"return document.querySelectorAll('{landmark}').length") == 1
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return [...document.querySelectorAll('section')].every((s) => s.getAttribute('aria-labelledby'))")
    assert browser.run("return document.getElementById('verdict').getAttribute('aria-live')") == "polite"
    charts = browser.run("""
        return [...document.querySelectorAll('svg')].map((s) => [s.getAttribute('role'), s.getAttribute('aria-label')]);
    """)
    assert len(charts) >= 5 and all(role == "img" and label for role, label in charts)


def test_what_is_read_aloud_does_not_change_while_the_state_does_not(browser: Browser, tree: Tree) -> None:
    shown(browser, tree)
    browser.run("""
        window.changes = 0;
        const count = () => { window.changes += 1; };
        const everything = {childList: true, subtree: true, characterData: true};
        new MutationObserver(count).observe(document.getElementById('verdict'), everything);
    """)
    for _ in range(2):
        before = browser.text("since")
        eventually(lambda b=before: browser.text("since") != b, "another second has come")  # type: ignore[misc]
    assert browser.run("return window.changes") == 0
