"""The short form of ``make faults``: the faults that are most likely to lose a message."""

import pytest

from tests.faults.faults import FAULTS
from tests.faults.trial import Size, Trial
from tests.support.tools import need

SMALL = Size(workers=2, clients=12, rounds=2, traffic=1.0)


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "cut-during-history",
        "half-open-subscriber",
        "more-than-history",
        "restart-aof-always",
        "cluster-migration",
        "odd-type",
        "worker-kill",
    ],
)
def test_no_message_is_lost_or_repeated_while_something_fails(name):
    need("redis-server", "apt-get install redis-server")
    result = Trial(FAULTS[name], size=SMALL).run()
    assert [*result.problems, *result.details(most=2)] == []
