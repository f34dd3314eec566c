"""JSON documents that are nearly right: a value replaced, removed or added, by chance."""

from copy import deepcopy

JUNK = [None, True, False, 0, -1, 1, 3, 2**31, 10**12, 10**30, 0.5, 1e308, "", "x", "1", "../..", "\0", "é\ud800"]
JUNK += [[], {}, [1], ["a"], [[]], [{}], {"a": 1}, {"0": {"content": "a"}}, {"type": "BPE"}, {"rope_type": "yarn"}]
JUNK += ["auto", "llama", "bert", "gpt2", "mixtral", "mamba", "t5", "<|im_end|>", "float32", "gelu", "a" * 5000]


def places(value, path=()):
    """The paths of all values in a JSON document."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in parts:
        yield from places(below, (*path, key))


def changed(drawn, document, keys):
    """A document with something replaced, removed or added, under one of some keys."""
    found = [path for path in places(document) if len(path) < 4 or drawn.random() < 0.1]
    path = drawn.choice(found)
    junk = deepcopy(drawn.choice(JUNK))
    if not path:
        return junk if drawn.random() < 0.2 else {**document, drawn.choice(keys): junk}
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    if drawn.random() < 0.2:
        del inside[path[-1]]
    elif isinstance(inside, dict) and drawn.random() < 0.3:
        inside[drawn.choice(keys)] = junk
    else:
        inside[path[-1]] = junk
    return document
