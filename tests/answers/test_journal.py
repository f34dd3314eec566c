"""A killed command goes on where it was: every result is on the disk once it is known, and nothing is asked twice."""

from types import SimpleNamespace

import pytest

from lora_ns.answers import journal
from lora_ns.answers.journal import Journal
from lora_ns.answers.work import Task
from lora_ns.errors import UsageError

TASK = Task("write", [*"abcdefg"], [[0, 3], [1], [2, 4, 5], [6]])


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setattr(journal, "key_of_run", lambda opened, _: opened.key)


def answering(asked, dies_after=None):
    """Compute a batch at a time: an item in capitals, with the batch's number and its items."""

    def compute(tasks, on_result):
        (task,) = tasks
        found = {}
        for batch, places in enumerate(task.batches):
            items = task.batch(batch)
            for place, item in zip(places, items, strict=True):
                if len(asked) == dies_after:
                    raise KilledError
                asked.append(item)
                found[place] = [item.upper(), task.number(batch), items]
                on_result(0, place, found[place])
        return [[found[place] for place in range(len(task.items))]]

    return compute


def run(file, compute, *, resume=False, key="key", heard=None):
    heard = [] if heard is None else heard
    keeping = Journal(file, resume).keeping([SimpleNamespace(key=key)], compute)
    (found,) = keeping([TASK], lambda _, place, one: heard.append((place, one)))
    return found


def whole(tmp_path):
    return run(tmp_path / "whole", answering([]))


@pytest.mark.parametrize("moment", range(len(TASK.items)))
def test_whatever_the_moment_the_results_are_the_same(tmp_path, moment):
    expected, file, first = whole(tmp_path), tmp_path / "file", []
    with pytest.raises(KilledError):
        run(file, answering(first, moment))
    asked, heard = [], []
    found = run(file, answering(asked), resume=moment > 0, heard=heard)
    assert found == expected
    assert sorted(place for place, _ in heard) == [*range(len(TASK.items))]
    done = [batch for batch in TASK.batches if all(TASK.items[place] in first for place in batch)]
    assert not {TASK.items[place] for batch in done for place in batch} & {*asked}


def test_a_cut_line_is_left_out(tmp_path):
    expected, file = whole(tmp_path), tmp_path / "file"
    with pytest.raises(KilledError):
        run(file, answering([], 3))
    left = Journal(file, True).file
    left.write_text(left.read_text()[:-4])
    assert run(file, answering([]), resume=True) == expected
    assert run(file, answering([], 0), resume=True) == expected


@pytest.mark.parametrize("damage", ["{", "[1", "7", '["a", 1]', "[99, 1]", "[-1, 1]", "null", "[" * 9999, "\0"])
def test_answers_from_a_damaged_line_on_are_asked_again(tmp_path, damage):
    expected, file = whole(tmp_path), tmp_path / "file"
    with pytest.raises(KilledError):
        run(file, answering([], 6))
    left = Journal(file, True).file
    lines = left.read_text().splitlines()
    left.write_text("\n".join([*lines[:3], damage, *lines[4:]]) + "\n")
    notes, asked = [], []
    keeping = Journal(file, True, notes.append).keeping([SimpleNamespace(key="key")], answering(asked))
    assert keeping([TASK]) == [expected]
    assert {*asked} == {*"bcefg"}, "the two answers before it are those of the first batch"
    assert notes == [".file.lorans-answers:4: is damaged; 4 answers from there on are asked again"]


def test_several_tasks_go_on_where_they_were(tmp_path):
    other = Task("write", [*"xyz"], [[2, 0], [1]])
    asked = [SimpleNamespace(key="one"), SimpleNamespace(key="two")]

    def one_by_one(dies_after=None):
        def compute(tasks, on_result):
            found, count = [], 0
            for number, task in enumerate(tasks):
                results = {}
                for batch, places in enumerate(task.batches):
                    for place in places:
                        if count == dies_after:
                            raise KilledError
                        count += 1
                        results[place] = [task.items[place].upper(), task.number(batch)]
                        on_result(number, place, results[place])
                found.append([results[place] for place in range(len(task.items))])
            return found

        return compute

    expected = one_by_one()([TASK, other], lambda *_: None)
    for moment in range(len(TASK.items) + len(other.items)):
        file, heard = tmp_path / f"file{moment}", {}
        with pytest.raises(KilledError):
            Journal(file, False).keeping(asked, one_by_one(moment))([TASK, other])
        resumed = Journal(file, moment > 0).keeping(asked, one_by_one())

        def hear(task, item, one, heard=heard):
            heard[task, item] = one

        assert resumed([TASK, other], hear) == expected
        assert heard == {(task, item): one for task, found in enumerate(expected) for item, one in enumerate(found)}


def test_answers_are_not_thrown_away_and_not_mixed_with_others(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(UsageError, match="no earlier command left answers"):
        run(file, answering([]), resume=True)
    with pytest.raises(KilledError):
        run(file, answering([], 2))
    with pytest.raises(UsageError, match="an earlier command left 2 answers for it"):
        run(file, answering([]))
    with pytest.raises(UsageError, match="are those of other rows, settings or weights"):
        run(file, answering([]), resume=True, key="other")
    assert run(file, answering([]), resume=True) == whole(tmp_path)


def test_a_command_that_ended_before_its_first_answer_left_nothing(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(KilledError):
        run(file, answering([], 0))
    assert run(file, answering([])) == whole(tmp_path)
