import pytest

from geventws.options import Options


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_message_size": 0}, {"max_message_size": None}, {"max_queue": 1.5},
        {"max_queue_size": -1}, {"max_send_buffer": "1"}, {"send_timeout": 0},
        {"close_timeout": None},
        {"ping_interval": 0}, {"ping_timeout": None}, {"close_timeout": -1},
        {"trusted_proxies": ["proxy.example"]},
        {"subprotocols": ["a b"]},
    ],
)
def test_a_wrong_value_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=r"must be|cannot be|does not appear"):
        Options(**wrong)


@pytest.mark.parametrize("name", ["allowed_origins", "trusted_proxies", "subprotocols"])
def test_one_string_is_not_a_list_of_strings(name):
    with pytest.raises(TypeError, match=name):
        Options(**{name: "https://example.com"})


@pytest.mark.parametrize("wrong", [None, "deflate", 6])
def test_compression_is_a_switch_or_a_deflate(wrong):
    with pytest.raises(TypeError, match="compression"):
        Options(compression=wrong)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="max_size"):
        Options(max_size=1)


def test_options_are_taken_out_of_other_keywords():
    keywords = {"max_message_size": 5, "backlog": 7}
    assert Options.take_from(keywords) == {"max_message_size": 5}
    assert keywords == {"backlog": 7}


def test_keywords_override_the_attributes_of_a_class():
    class Handler:
        max_message_size = 5
        subprotocols = ("chat",)

    options = Options.of(Handler, {"max_message_size": 6})
    assert (options.max_message_size, options.subprotocols) == (6, ("chat",))
