"""The board over a real run: its verdict, and a report that is made when it is asked for."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")
pytest.importorskip("matplotlib")


def test_a_run_without_a_report_gets_one_on_request(lora_run):
    from starlette.testclient import TestClient

    from lora_ns.services.board.app import application

    app, shelf = application(lora_run.path, None, "127.0.0.1", 8420)
    browser = TestClient(app, base_url="http://127.0.0.1:8420")
    (one,) = shelf.runs().values()
    assert (one.overview.status, one.overview.progress) == ("finished", 1.0)
    page = browser.get(f"/runs/{one.key}").text
    assert 'class="verdict' in page
    assert "Finished." not in page  # a verdict, not the bare status
    made = browser.get(f"/runs/{one.key}/report")
    assert made.status_code == 200
    assert "<svg" in made.text
    assert "<script" not in made.text
