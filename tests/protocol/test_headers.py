import pytest

from geventws.protocol.headers import (
    MAX_EXTENSIONS,
    has_token,
    is_token,
    is_value,
    parse_extensions,
    split_list,
)


@pytest.mark.parametrize("value", ["upgrade", "Upgrade", "keep-alive, Upgrade", ",upgrade ,\tx"])
def test_a_token_is_found_in_any_case_and_place(value):
    assert has_token(value, "upgrade")


@pytest.mark.parametrize("value", ["", "upgraded", "no-upgrade", "up grade", "keep-alive"])
def test_a_part_of_a_token_is_no_token(value):
    assert not has_token(value, "upgrade")


def test_empty_members_of_a_list_do_not_count():
    assert split_list(" a,, b ,") == ["a", "b"]


@pytest.mark.parametrize("text", ["", "a b", "a,b", "é", "a\r", "a:", "(a)"])
def test_what_is_no_token(text):
    assert not is_token(text)


@pytest.mark.parametrize("text", ["a\r\nX: y", "a\n", "\0", " a", "a\t", "\x7f", "snow \u2603"])
def test_what_cannot_be_a_value(text):
    assert not is_value(text)


@pytest.mark.parametrize("text", ["", "a", "a=b; c", "na\xefve"])
def test_what_can_be_a_value(text):
    assert is_value(text)


def test_extensions_have_names_and_parameters_in_order():
    assert parse_extensions('a, b; c ; d=1;e = "2" ,') == (
        ("a", ()),
        ("b", (("c", None), ("d", "1"), ("e", "2"))),
    )


def test_a_list_of_extensions_has_a_longest_length():
    longest = "a" * MAX_EXTENSIONS
    assert parse_extensions(longest) == ((longest, ()),)
    with pytest.raises(ValueError, match="of more than 1024 characters"):
        parse_extensions(longest + "a")


@pytest.mark.parametrize("value", ["a b", "a;", "a; =1", "a; b=", 'a; b="c d"', "a; b=1 2"])
def test_what_is_no_extension_is_refused(value):
    with pytest.raises(ValueError, match="is not an extension with its parameters"):
        parse_extensions(value)
