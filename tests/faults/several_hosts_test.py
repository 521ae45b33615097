"""Two real hosts: an error, a death and a stop on one end both, and no bit is lost.

The short form for every change; `python -m tests.faults.several_hosts` has all stories, and
`python -m tests.faults.host_kills` more deaths.
"""

import pytest

from tests.faults import host_kills
from tests.faults import several_hosts


@pytest.mark.slow  # Two processes of the command each, 30 s on two cores.
@pytest.mark.parametrize("name", ["bad_row", pytest.param("kill0", marks=pytest.mark.long), "int1"])
def test_two_hosts_end_as_promised(name, tmp_path):
  ended, _, wrong = several_hosts.STORIES[name](several_hosts.Story(tmp_path))
  assert not wrong, [e.text[-2000:] for e in ended]


@pytest.mark.long  # Four times two processes, 100 s on two cores.
def test_killed_twice_two_hosts_end_with_the_same_bits(tmp_path):
  assert host_kills.kills(tmp_path, num=2, seed=3) == ""
