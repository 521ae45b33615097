"""The talk between chips, read off a compiled program."""

from paligemma_jax.planning import program

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
  %start = (f32[10]{0}, f32[10]{0}) all-reduce-start(%x), replica_groups={{0,1,2,3}}, to_apply=%sum
  %done = f32[10]{0} all-reduce-done(%start)
  ROOT %rs = f32[10]{0} reduce-scatter(%done), replica_groups={{0,1},{2,3}}, dimensions={0}
}
"""


def test_calls_in_loops_count_as_often_as_the_loop_runs():
  found = program.collectives(_HLO)
  # 16 x 8 bfloat16, of which a quarter was there already, 18 times.
  assert found["all-gather"] == {"count": 18, "bytes": 18 * 16 * 8 * 2 * 3 / 4}


def test_what_each_kind_receives():
  found = program.collectives(_HLO)
  assert found["all-reduce"] == {"count": 1, "bytes": 2 * 40 * 3 / 4}
  assert found["reduce-scatter"] == {"count": 1, "bytes": 40}
  assert set(found) == {"all-gather", "all-reduce", "reduce-scatter"}


def test_a_told_trip_count_is_believed():
  told = _HLO.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
  assert program.collectives(told)["all-gather"]["count"] == 7


def test_one_device_talks_to_nobody():
  assert program.collectives("ENTRY %main (p: f32[]) -> f32[] {\n}\n") == {}
