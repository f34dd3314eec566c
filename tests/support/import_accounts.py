"""The account of an imported configuration, as the tests of each tool look at it."""


def without(text, *keys):
    """A configuration without some keys at its top."""
    return "".join(line for line in text.splitlines(True) if line.partition(":")[0] not in keys)


def ends(translation, key):
    """The outcome of a key."""
    return next(outcome for outcome in translation.outcomes if outcome.key == key)


def check_mapped(translation, source, key, value):
    """A source key, with all that is in it, became one key of the recipe with this value and type."""
    assert translation.recipe[key] == value
    assert type(translation.recipe[key]) is type(value)
    found = [outcome for outcome in translation.outcomes if f"{outcome.key}.".startswith(f"{source}.")]
    assert {outcome.fate for outcome in found} == {"mapped"}
    assert all(key in outcome.recipe for outcome in found), found
