"""The talk between chips and hosts, read off a compiled program."""

import pytest

from paligemma_jax.planning import collectives

_HLO = """HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%body (arg: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %arg = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %w = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=1
  %gathered = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), replica_groups=[2,4]<=[8]
  ROOT %out = (s32[], bf16[4,8]) tuple(%w, %w)
}

%condition (arg: (s32[], bf16[4,8])) -> pred[] {
  %arg = (s32[], bf16[4,8]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %n = s32[]{:T(128)} constant(18)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: bf16[4,8]) -> f32[10] {
  %p = bf16[4,8]{1,0} parameter(0)
  %loop = (s32[], bf16[4,8]) while(%p), condition=%condition, body=%body
  %start = f32[10]{0} all-reduce-start(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  %done = f32[10]{0} all-reduce-done(%start)
  ROOT %rs = f32[10]{0} reduce-scatter(%done), replica_groups={{0,1},{2,3},{4,5},{6,7}}
}
"""
_FOURS = [0, 0, 0, 0, 1, 1, 1, 1]  # The hosts of eight chips.
_EVERY_SECOND = [0, 1] * 4


def _of(line, hosts=_FOURS):
  """What is found of a program of one line."""
  hlo = f"ENTRY %main (p: f32[]) -> f32[] {{\n  ROOT %x = {line}\n}}\n"
  (entry,) = collectives.collectives(hlo, hosts).values()
  return entry


def test_calls_in_loops_count_as_often_as_the_loop_runs():
  found = collectives.collectives(_HLO, _FOURS)["all-gather"]
  # 16 x 8 bfloat16, of which a quarter was there already, 18 times.
  assert (found["count"], found["bytes"]) == (18, 18 * 16 * 8 * 2 * 3 / 4)


def test_what_each_kind_receives():
  found = collectives.collectives(_HLO, _FOURS)
  assert (found["all-reduce"]["count"], found["all-reduce"]["bytes"]) == (1, 2 * 40 * 3 / 4)
  assert (found["reduce-scatter"]["count"], found["reduce-scatter"]["bytes"]) == (1, 40)
  assert set(found) == {"all-gather", "all-reduce", "reduce-scatter"}


def test_a_told_trip_count_is_believed():
  told = _HLO.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
  assert collectives.collectives(told, _FOURS)["all-gather"]["count"] == 7


def test_one_device_talks_to_nobody():
  assert collectives.collectives("ENTRY %main (p: f32[]) -> f32[] {\n}\n", [0]) == {}


@pytest.mark.parametrize(
  "written, groups",
  [
    ("{{0,1,2,3},{4,5,6,7}}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=8,'b'=1] {'a'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ("mesh['a'=1,'b'=8] {'a','b'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ("mesh['a'=2,'b'=1,'c'=4] {'c'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=2,'b'=4] {'b':(2)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
  ],
)
def test_groups_are_read_in_each_way_that_xla_writes_them(written, groups):
  line = f"%x = f32[8] all-reduce(%p), channel_id=1, replica_groups={written}, to_apply=%sum"
  assert collectives._groups(line, 8) == groups


def test_a_way_to_write_groups_that_is_not_known_is_said():
  with pytest.raises(ValueError, match="unknown groups: 'rings'"):
    _of("f32[8] all-reduce(%p), replica_groups=rings")


@pytest.mark.parametrize(
  "line, whole",
  [
    ("f32[80] all-gather(%p), replica_groups={}", 320),
    ("((f32[5], f32[5]), (f32[40], f32[40])) all-gather-start(%p), replica_groups={}", 320),
    ("f32[10] reduce-scatter(%p), replica_groups={}", 320),
    ("((f32[40], f32[40]), (f32[5], f32[5])) reduce-scatter-start(%p), replica_groups={}", 320),
    ("f32[40] all-reduce(%p), replica_groups={}", 2 * 160),
    ("(f32[20], f32[20]) all-reduce-start(%p), replica_groups={}", 2 * 160),
  ],
)
def test_what_a_host_needs_enters_it_once(line, whole):
  found = _of(line)
  assert found["bytes"] == whole * 7 / 8
  # Half of it is of the other host. Each of four chips has the rest from its neighbours.
  assert (found["from_hosts"], found["within_host"]) == (whole / 2, whole * 3)
  assert 4 * found["bytes"] == found["from_hosts"] + found["within_host"]
  alone = _of(line, [0] * 8)
  assert (alone["from_hosts"], alone["within_host"]) == (0, 8 * found["bytes"])


def test_groups_of_chips_of_all_hosts_send_nothing_within_them():
  line = "f32[10] all-gather(%p), replica_groups=[4,2]<=[2,4]T(1,0)"
  found = _of(line)
  assert (found["from_hosts"], found["within_host"]) == (4 * 20, 0)
  assert _of(line, _EVERY_SECOND)["from_hosts"] == 0


def test_of_an_exchange_each_chip_has_its_own_part():
  found = _of("f32[80] all-to-all(%p), replica_groups={}")
  # Of each chip's 320 bytes a half comes from the other host, and an eighth from nowhere.
  assert (found["from_hosts"], found["within_host"]) == (4 * 160, 4 * 120)


def test_of_pairs_those_of_two_hosts_cross():
  ring = ",".join(f"{{{i},{(i + 1) % 8}}}" for i in range(8))
  line = (
    "(f32[10], f32[10], u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p),"
    f" source_target_pairs={{{ring}}}"
  )
  found = _of(line)
  assert (found["bytes"], found["from_hosts"], found["within_host"]) == (40, 40, 120)
  assert _of(line, _EVERY_SECOND)["from_hosts"] == 160


@pytest.mark.parametrize(
  "transfer, kind, received",
  [
    ("ALL_GATHER", "all-gather", 40 / 2),
    ("REDUCE_SCATTER", "reduce-scatter", 40),
    ("ALL_REDUCE", "all-reduce", 2 * 40 / 2),
  ],
)
def test_what_comes_from_other_slices_is_on_no_link(transfer, kind, received):
  line = (
    "ENTRY %main (p: f32[]) -> f32[] {\n"
    "  ROOT %r = (f32[10]{0}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true,"
    ' frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",'
    f'_xla_megascale_transfer_type="{transfer}"}}\n}}\n'
  )
  found = collectives.collectives(line, _FOURS)
  assert found == {
    kind: dict(count=1, bytes=0, within_host=0, from_hosts=0, from_slices=4 * received)
  }
