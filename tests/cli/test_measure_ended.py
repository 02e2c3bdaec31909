"""Why responses in files ended, in every spelling that is read."""

import pytest

from sae_posttrain.cli.measure.responses import ended


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, None),
        ({"finish_reason": None}, None),
        ({"finish_reason": ""}, None),
        ({"finish_reason": "stop"}, True),
        ({"finish_reason": "length"}, False),
        ({"finish_reason": "length", "ended": True}, False),
        ({"finish_reason": None, "ended": True}, True),
        ({"finish_reason": "eos_token"}, True),
        ({"finish_reason": "max_tokens"}, False),
        ({"finish_reason": "content_filter"}, None),
        ({"ended": True}, True),
        ({"ended": False}, False),
        ({"ended": None}, None),
        ({"ended": "False"}, False),
        ({"ended": "true"}, True),
        ({"ended": ""}, None),
    ],
)
def test_why_a_response_ended_is_read(row, expected):
    assert ended([row]) == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"finish_reason": "tired"}, "response 2: 'finish_reason' holds 'tired'; expected \"stop\", \"length\" or"),
        ({"finish_reason": 3}, "response 2: 'finish_reason' holds 3"),
        ({"finish_reason": ["stop"]}, "response 2: 'finish_reason' holds"),
        ({"ended": "perhaps"}, "response 2: 'ended' holds 'perhaps'; expected true, false or nothing."),
        ({"ended": 3}, "response 2: 'ended' holds 3"),
    ],
)
def test_a_reason_that_cannot_be_read_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        ended([{}, row])
