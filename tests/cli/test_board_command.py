"""`lorans board`: who may read it, what it shows, and how it is served."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from command_line import lorans
from run_folders import HOSTILE, is_inert, manifest, rows, write_evaluation, write_run

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")
pytest.importorskip("matplotlib")

TOKEN = "a-token"
ROOT = "http://127.0.0.1:8420"


def client(folder, token=TOKEN, host="127.0.0.1", **how):
    """A browser before the board of a folder."""
    from starlette.testclient import TestClient

    from lora_ns.services.board.app import application

    app, _ = application(folder, token, host, 8420)
    return TestClient(app, base_url=how.pop("base_url", ROOT), **how)


@pytest.fixture
def folder(tmp_path):
    """Two finished runs with evaluations, a hostile one, a damaged one, one with half-written metrics, and a loop."""
    for name, right in (("one", 40), ("two", 20)):
        write_evaluation(write_run(tmp_path / name, manifest(name), rows()), [1.0] * right + [0.0] * (60 - right))
    table = manifest("hostile", "failed", error=HOSTILE, base={"name": HOSTILE}, data={"train": {"source": HOSTILE}})
    table["recipe"]["task_name"] = HOSTILE
    logged = [*rows(5), {"step": 6, HOSTILE: 1.0}, {"step": 7, HOSTILE: 2.0}]
    write_run(tmp_path / HOSTILE, table, logged, log=f"Warning: {HOSTILE}\n")
    write_run(tmp_path / "damaged", "{")
    half = write_run(tmp_path / "half", manifest("half"), rows(30))
    with (half / "metrics.jsonl").open("ab") as file:
        file.write(b'\x00\xff\n{"step": 31, "lo')
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


@pytest.fixture
def browser(folder):
    """A browser that has opened the address with the token."""
    one = client(folder)
    assert one.get(f"/?token={TOKEN}").status_code == 200
    return one


def addresses(browser):
    """The address of each run, by its name."""
    return {run["name"]: f"/runs/{run['key']}" for run in browser.get("/runs.json").json()["runs"]}


# Who may read


def test_nothing_is_shown_without_the_token(folder):
    one = client(folder)
    for path in (
        "/",
        "/runs.json",
        "/rows",
        "/compare",
        "/runs/x",
        "/runs/x/report",
        "/?token=wrong",
        "/?token=",
        "/x",
    ):
        answer = one.get(path)
        assert answer.status_code == 403
        assert "one" not in answer.text.split()
    assert one.get("/", headers={"cookie": "lorans_board_8420=wrong"}).status_code == 403


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(folder):
    answer = client(folder, follow_redirects=False).get(f"/?token={TOKEN}&sort=run")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?sort=run"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("path", ["//other.org/", "/\\other.org", "///other.org"])
def test_the_token_never_sends_a_browser_elsewhere(folder, path):
    answer = client(folder, follow_redirects=False).get(f"{ROOT}{path}?token={TOKEN}")
    assert answer.headers.get("location", "/").startswith("/")
    assert not answer.headers.get("location", "/").startswith(("//", "/\\"))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]", "localhost.evil"])
def test_another_host_name_is_refused_even_with_the_cookie(browser, host):
    assert browser.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420"])
def test_every_name_of_this_machine_is_its_own(browser, host):
    assert browser.get("/", headers={"host": host}).status_code == 200


def test_an_address_on_the_network_takes_addresses_but_no_foreign_names(folder):
    one = client(folder, host="0.0.0.0")
    assert one.get(f"/?token={TOKEN}", headers={"host": "192.168.0.7:8420"}).status_code == 200
    assert one.get("/", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_only_reads(browser, method):
    answer = browser.request(method, "/no such page")  # the guard answers, before any page does
    assert (answer.status_code, answer.text) == (405, "the board only reads: GET and HEAD\n")
    assert browser.head("/").status_code == 200


def test_every_answer_has_the_headers_that_keep_it_in_its_place(browser, folder):
    runs = addresses(browser)
    paths = ["/", "/rows", "/runs.json", runs["one"], f"{runs['one']}/live", f"{runs['one']}/report", "/compare"]
    for path in paths:
        headers = browser.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        if "html" in headers["content-type"]:
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'unsafe-inline'" not in policy
    first, second = (re.search("nonce-([^']+)", browser.get("/").headers["content-security-policy"])[1] for _ in "ab")
    assert first != second


@pytest.mark.parametrize(
    "path", ["/runs/..", "/runs/../one", "/runs/%2e%2e%2f", "/runs/one", "/runs/%2Fetc%2Fpasswd/report", "/runs/x%00"]
)
def test_no_address_names_a_path(browser, path):
    assert browser.get(path).status_code in {404, 200}
    assert "run_id" not in browser.get(path).text
    assert browser.get("/runs/0123456789abcdef").status_code == 404


# What is shown


def test_the_table_lists_every_run(browser):
    text = browser.get("/").text
    assert text.count('type="checkbox"') == 5
    for part in ("exact_match 66.7 % (56.7 to 76.7)", "100/100", "damaged", "5 runs", 'scope="col"', "aria-sort"):
        assert part in text


def test_no_page_runs_what_a_run_contains(browser):
    pages = ["/", "/rows", "/compare?" + "&".join(f"run={path[6:]}" for name, path in addresses(browser).items()
             if name != "damaged")]  # fmt: skip
    for path in addresses(browser).values():
        pages += [path, f"{path}/live", f"{path}/report"]
    for page in pages:
        answer = browser.get(page)
        assert answer.status_code in {200, 404}
        assert is_inert(answer.text)
        for address in re.findall(r"""(?:src|href|action)=["']([^"']+)""", answer.text):
            assert address.startswith(("/", "#", "data:"))


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("sort=run", ["damaged", "half", "one", "two"]),
        ("sort=-run", ["two", "one", "half", "damaged"]),
        ("filter=status%3Dfinished&sort=best", ["two", "one", "half"]),
        ("filter=status%3Dfinished+best%3E0.5&sort=run", ["half", "one"]),
    ],
)
def test_rows_are_sorted_and_filtered(browser, query, names):
    found = re.findall(r'id="r-\w+" href="[^"]+">(\w+)</a>', browser.get(f"/?{query}").text)
    assert found == names or (query.startswith("filter=status%3Dfinished&sort=best") and set(found) == set(names))


@pytest.mark.parametrize("query", ["filter=nokey%3D1", "filter=%3Cscript%3Ealert", "sort=nokey", "filter=a%3D%00"])
def test_a_wrong_filter_is_explained_and_all_runs_are_shown(browser, query):
    answer = browser.get(f"/?{query}")
    assert answer.status_code == 200
    assert 'role="alert"' in answer.text
    assert is_inert(answer.text)
    assert answer.text.count('type="checkbox"') == 5


def test_a_run_has_its_state_curves_and_warnings(browser):
    text = browser.get(addresses(browser)["one"]).text
    assert text.count("<svg") >= 2
    assert "data-live" in text
    assert "Warning" in browser.get(addresses(browser)[HOSTILE]).text


def test_only_what_has_changed_is_sent_again(browser, folder):
    path = addresses(browser)["one"] + "/live"
    first = browser.get(path)
    again = {"If-None-Match": first.headers["etag"]}
    assert browser.get(path, headers=again).status_code == 304
    with (folder / "one/metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "loss": 9.0}\n')
    changed = browser.get(path, headers=again)
    assert changed.status_code == 200
    assert changed.text != first.text


def test_runs_appear_and_disappear(folder, monkeypatch):
    monkeypatch.setattr("lora_ns.services.board.shelf._FRESH_SECONDS", 0.0)
    one = client(folder, token=None)
    write_run(folder / "new", manifest("new"))
    assert "new" in addresses(one)
    (folder / "new/manifest.json").unlink()
    assert "new" not in addresses(one)


def test_selected_runs_are_compared(browser):
    pytest.importorskip("scipy")
    runs = addresses(browser)
    text = browser.get(f"/compare?run={runs['one'][6:]}&run={runs['two'][6:]}").text
    assert "two against one: worse" in text
    assert text.count("<svg") >= 2


@pytest.mark.parametrize("chosen", [[], ["one"], ["one", "one"], ["one", "missing"], ["one"] + ["two"] * 20])
def test_a_comparison_needs_several_known_runs(browser, chosen):
    runs = addresses(browser)
    keys = [runs.get(name, "/runs/missing")[6:] for name in chosen]
    answer = browser.get("/compare?" + "&".join(f"run={key}" for key in keys))
    assert answer.status_code == (200 if len(set(chosen)) == 2 and "missing" not in chosen else 400)


def test_a_damaged_run_is_told_instead_of_compared(browser):
    runs = addresses(browser)
    answer = browser.get(f"/compare?run={runs['one'][6:]}&run={runs['damaged'][6:]}")
    assert answer.status_code == 409
    assert "manifest" in answer.text


def test_a_report_is_shown_without_the_right_to_run_anything_and_links_are_not_followed(browser, folder):
    secret = folder / "secret"
    secret.write_text("secret text")
    path = addresses(browser)["one"] + "/report"
    (folder / "one/report.html").symlink_to(secret)
    assert "secret text" not in browser.get(path).text
    (folder / "one/report.html").unlink()
    (folder / "one/report.html").write_text("<p>written</p><script>alert(1)</script>")
    answer = browser.get(path)
    assert "written" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


# Serving


@contextlib.contextmanager
def served(folder, *options):
    """The address of a board in a process of its own."""
    words = [sys.executable, "-m", "lora_ns", "board", str(folder), "--port", "0", *options]
    board = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield board, board.stdout.readline().split()[-1]
    finally:
        board.kill()
        board.communicate()


def test_the_printed_address_opens_the_board_and_an_interrupt_ends_it(folder):
    with served(folder) as (board, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        text = opener.open(address).read().decode()
        assert "<h1>Runs</h1>" in text
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address.partition("?")[0])
        board.send_signal(2)
        _, errors = board.communicate()
        assert board.returncode == 0
        assert "Traceback" not in errors


def test_a_port_in_use_is_refused_with_a_free_one(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = lorans("board", folder, "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert re.search(r"is in use \(`--port \d+` is free\)", done.stderr)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--no-token", "--host", "0.0.0.0"], "without a token"),
        (["--host", "nowhere.invalid"], "no address of this machine"),
        (["--host", "203.0.113.1"], "cannot listen"),
    ],
)
def test_what_cannot_or_should_not_be_served_is_refused(folder, words, told):
    done = lorans("board", folder, *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_another_address_than_loopback_is_warned_about(folder):
    done = lorans("board", folder, "--host", "203.0.113.1")
    assert "not encrypted" in done.stderr


def test_a_missing_folder_is_refused(tmp_path):
    assert lorans("board", tmp_path / "missing").returncode == 2


def test_json_lists_every_run(browser):
    found = json.loads(browser.get("/runs.json").text)["runs"]
    assert {run["status"] for run in found} == {"finished", "failed", "damaged"}
