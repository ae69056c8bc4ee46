"""The kernels of a GPU: their answers in Triton's interpreter are those of float64, and they compile for GPUs."""

from typing import Any

import pytest
import torch

from tests.kernels.interpreted import compiled, interpreted
from tests.marks import slow_beyond

pytest.importorskip("triton")

ANSWERS = """
import itertools
import json

import torch

from proxflow.kernels import fused_search, search
from proxflow.kernels.fused_search import _Tile, fused_best, fused_best_two

tried = []
fused_search._tile = lambda dtype, depth, memory: tried.append(dtype) or _Tile(16, 32, 16, 16, 4, 2)
fused_search._PREPARED_DEPTH, fused_search._NEAR_DEPTH, fused_search._EXACT_DEPTH = 16, 32, 16
fused_search._ROWS_AT_ONCE, fused_search._MAXIMA_AT_ONCE = 32, 640  # several blocks, several panels
generator = torch.Generator().manual_seed(0)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=generator).to(dtype)


def truth(queries, slopes, offsets=None):
    scores = queries.double() @ slopes.double().T
    return scores if offsets is None else scores + offsets.double()


def is_right(queries, slopes, offsets=None):
    index, score = fused_best(queries, slopes, offsets)
    scores = truth(queries, slopes, offsets)
    near = torch.allclose(score, scores.amax(1), rtol=1e-12, atol=0)
    return torch.equal(index, scores.argmax(1)) and near


result = {"described": [], "sizes": [], "dtypes": [], "scales": [], "first": []}
for described in (False, True):
    fused_search._describes = lambda device: described
    result["described"].append(is_right(normal(40, 20), normal(150, 20), normal(150)))
for rows, columns, depth in ((5, 7, 3), (17, 700, 33), (1, 1, 1), (33, 400, 8), (70, 90, 16)):
    table = normal(columns, depth + 2)  # as a potential keeps its points
    for offsets in (table[:, -1], None):
        result["sizes"].append(is_right(normal(rows, depth), table[:, :depth], offsets))
stored = (torch.float16, torch.bfloat16, torch.uint8, torch.int8)
for kept, asked in itertools.product((*stored, torch.float64), (torch.float32, torch.float64)):
    if kept != torch.float64 or asked == kept:
        noise, points = normal(9, 12, dtype=asked), normal(200, 12)
        points = points.to(kept) if kept.is_floating_point else (30 * points.abs()).clamp(max=127).to(kept)
        result["dtypes"].append(is_right(noise, points, normal(200, dtype=asked)))
wide = normal(200, 12) * torch.logspace(-8, 4, 200)[:, None]
for factor, far in itertools.product((1e-30, 1e-3, 1.0, 1e20), (0.0, 100.0)):
    result["scales"].append(is_right(factor * normal(9, 12), wide + far, 100 * factor * normal(200)))
points, heights = wide + 5, normal(200)
kept = fused_search.kept_slopes(points, heights)
result["kept"] = []
for noise in (normal(40, 12), normal(3, 12), 100 * normal(9, 12), normal(9, 12).double()):
    index, _ = fused_best(noise, points, heights, kept)
    result["kept"].append(torch.equal(index, truth(noise, points, heights).argmax(1)))
index, _ = fused_best(1e-9 * normal(9, 12), points, heights, kept)
result["tiny noise"] = index.tolist()
single = normal(1, 6)
result["first"].append(is_right(normal(9, 6), single))
queries = torch.randint(-3, 4, (50, 4), generator=generator).float()
slopes = torch.randint(-3, 4, (200, 4), generator=generator).float()
found = fused_best(queries, slopes, None)
result["tied"] = found is None or torch.equal(found[0], truth(queries, slopes).argmax(1))

half, ulp = torch.arange(16) < 8, 2.0**-10
noise = 1 + 4 * ulp + torch.where(half, 0.49, -0.49).double() * ulp
result["tight"] = []
for lost in (0.0, 0.49):  # float16 puts the worse of two slopes before the better one by most of what bounds allow
    pair = torch.zeros(2, 16, dtype=torch.float64)
    pair[0, half], pair[1, ~half] = 1.5 + lost * ulp, 1.5 - lost * ulp
    level = torch.stack([torch.zeros(()), (pair @ noise)[0] - (pair @ noise)[1] - 1e-5])
    points = torch.cat([pair, -pair, torch.zeros(60, 16)]).float()
    offsets = torch.cat([level, torch.full((62,), -50.0)]).float()
    index, _ = fused_best(noise[None].float(), points, offsets)
    scores = truth(noise[None].float(), points, offsets)
    rounded = truth(noise[None].half(), points.half(), offsets)
    result["tight"].append([index.item(), scores.argmax().item(), rounded.argmax().item()])

slopes = torch.zeros(100, 8)
slopes[3, 0], slopes[40, 1], slopes[90, 1] = 9, 9, 9.001  # two that are near, in different groups
queries = torch.zeros(48, 8)
queries[:32, 0], queries[32:, 1] = 1, 1  # in the second block, of half the size
fused_search._GROUPS_KEPT = 1
found = fused_best(queries, slopes, None)
result["full"] = found is None or torch.equal(found[0], truth(queries, slopes).argmax(1))
fused_search._GROUPS_KEPT = 32

tried.clear()
level = torch.linspace(0, 1e-4, 900)[torch.randperm(900, generator=generator)]
close = torch.cat([1 + level[:, None].expand(-1, 2), -torch.ones(900, 2)])  # nearer than float16 can tell
result["near"] = is_right(torch.ones(3, 2), close), [str(dtype) for dtype in tried]
same = torch.ones(900, 2)
result["same"] = fused_best(torch.ones(3, 2), same, None) is None

result["wild"] = {}
slopes, offsets = normal(300, 12), normal(300)
for name, wild in (("NaN", torch.nan), ("infinite", torch.inf), ("huge", 1e30), ("large", 1e25), ("minute", 1e-30)):
    queries = normal(40, 12)
    queries[7, 0] = wild
    if name == "minute":
        queries[:] *= wild
        queries[7] = 1e30  # all others are lost beside it
    scores = truth(queries, slopes, offsets)
    index, _ = fused_best(queries, slopes, offsets)
    found = index >= 0
    right = bool((index == scores.argmax(1))[found].all())
    result["wild"][name] = right and not (name in ("NaN", "infinite") and found[7])
queries, far = normal(9, 12), slopes.clone()
queries[3], far[1] = 0, 1e25  # not one of the sampled slopes, and the square of its error is no number
offsets[5] = 50
found = fused_best(queries, far, offsets)
result["wild"]["far slope"] = found is None or torch.equal(found[0], truth(queries, far, offsets).argmax(1))
table, level = normal(64, 12), torch.full((64,), 100.0)
level[:20], level[3] = 0, -torch.inf
found = fused_best(queries, table[:20], level[:20])
result["wild"]["beyond"] = found is None or float(found[1].max()) < 50
queries, slopes, offsets = 3e-5 * normal(48, 3).double(), normal(300, 3).double(), torch.zeros(300, dtype=torch.float64)
offsets[5:295:29] = 1000 + 3e-5 * normal(10).double()  # nearer than float32 can tell, for their size
found = fused_best(queries, slopes, offsets)
result["wild"]["level"] = found is None or torch.equal(found[0], truth(queries, slopes, offsets).argmax(1))

queries, slopes = normal(50, 8), normal(200, 8)
queries[7, 0], queries[9] = torch.nan, 1e-12 * queries[9]
index, score = fused_best(queries, slopes, None)
alone = (index >= 0).nonzero()[:, 0]
result["spoiled"] = torch.equal(index[alone], truth(queries, slopes).nan_to_num(0).argmax(1)[alone]), int(index[7])
queries[7] = 0
index, score = fused_best(queries, slopes, normal(200))
result["tiny"] = int(index[9]), int((index < 0).sum())


def best_two_are_right(queries, slopes, offsets):
    (best, value), (second, runner_up) = fused_best_two(queries, slopes, offsets)
    scores = truth(queries, slopes, offsets)
    places = scores.sort(dim=1, descending=True, stable=True).indices[:, :2]
    values = torch.stack([value, runner_up], dim=1)
    near = torch.allclose(values, scores.gather(1, places), rtol=1e-12, atol=0)
    return near and torch.equal(torch.stack([best, second], dim=1), places)


result["two"] = []
for rows, columns, depth in ((40, 150, 20), (17, 700, 33), (1, 17, 1), (70, 900, 16)):  # one panel and several
    table = normal(columns, depth + 2)
    result["two"].append(best_two_are_right(normal(rows, depth), table[:, :depth], table[:, -1]))
for kept, asked in itertools.product((*stored, torch.float64), (torch.float32, torch.float64)):
    if kept != torch.float64 or asked == kept:
        points = normal(200, 12)
        points = points.to(kept) if kept.is_floating_point else (30 * points.abs()).clamp(max=127).to(kept)
        result["two"].append(best_two_are_right(normal(9, 12, dtype=asked), points, normal(200, dtype=asked)))
result["two"].append(best_two_are_right(1e-3 * normal(9, 12), wide + 100, 0.1 * normal(200)))
whole = torch.randint(-3, 4, (50, 4), generator=generator).float()
corners = torch.cartesian_prod(*4 * [torch.tensor([-3.0, -1.0, 2.0, 3.0])])
result["two tied"] = best_two_are_right(whole, corners, torch.zeros(256))
neighbours = torch.zeros(100, 8)
neighbours[40, 0], neighbours[41, 0], neighbours[90, 0] = 9, 9.001, 8  # the best two in one group
result["two of a group"] = best_two_are_right(torch.ones(48, 1) * torch.eye(8)[0], neighbours, torch.zeros(100))
tried.clear()
result["two near"] = best_two_are_right(torch.ones(3, 2), close, torch.zeros(1800)), [str(dtype) for dtype in tried]
fused_search._GROUPS_KEPT = fused_search._SLOPES_KEPT = 1
result["two full"] = fused_best_two(normal(40, 4), normal(300, 4), normal(300)) is None
fused_search._GROUPS_KEPT = fused_search._SLOPES_KEPT = 32
result["two of few"] = fused_best_two(normal(5, 4), normal(16, 4), normal(16)) is None
queries, offsets = normal(40, 12), normal(300)
queries[7] *= 1e-12  # a row far smaller than others
(best, _), (second, _) = fused_best_two(queries, normal(300, 12), offsets)
search.has_kernels, search._LEAST_FUSED = lambda device: True, 0
points = normal(300, 12)
two = search.top_two_affine(queries, points, offsets)  # the row that kernels leave is searched by products
values, places = truth(queries, points, offsets).topk(2, dim=1)
same = torch.equal(torch.stack([two.best, two.second], dim=1), places)
result["two routed"] = same and torch.allclose(two.gap.double(), values[:, 0] - values[:, 1], rtol=1e-5)
few = search.top_two_affine(queries, points[:5], offsets[:5])  # all by products
result["two routed"] &= torch.equal(few.second, truth(queries, points[:5], offsets[:5]).topk(2, dim=1).indices[:, 1])
result["two tiny"] = [int(best[7]), int(second[7]), int((best < 0).sum()), int((second < 0).sum())]
print(json.dumps(result))
"""

BOUNDS = """
import json

import torch

from proxflow.kernels import fused_search
from proxflow.kernels.fused_search import _Tile, _frame, _imprecision, _kept, _noise, _panel

tile = _Tile(16, 32, 16, 16, 4, 2)
fused_search._PREPARED_DEPTH = 16
generator = torch.Generator().manual_seed(0)
queries = torch.randn(64, 40, generator=generator) * torch.logspace(-3, 1, 64)[:, None]
slopes = 5 + torch.randn(320, 40, generator=generator) * torch.logspace(-4, 2, 320)[:, None]
offsets = 1e3 * torch.randn(320, generator=generator)
result = []
for dtype in (torch.float16, torch.float32):
    frame = _frame(queries, slopes, offsets)
    rows = _noise(queries, frame, dtype, tile, 1)
    kept, size, lost = _kept(queries, 0 * frame.centre, frame.largest[0], dtype, 16, 16, noise=False)
    panel = _panel(slopes, offsets, frame, dtype, tile)
    scales = [float(2.0 ** (4 - torch.frexp(each).exponent)) for each in frame.largest]
    exact = (scales[0] * queries.double()) @ (scales[1] * (slopes.double() - frame.centre.double())).T
    found = rows.rows.double() @ panel.rows.double().T
    allowed = rows.size[:, None].double() * panel.error.double()
    shift = (offsets.double() - frame.level.double()) * scales[0] * scales[1]
    result.append({
        "score": float(((found - exact).abs() / allowed).max()),
        "row": float((lost / size).max() / _imprecision(dtype)),
        "same": torch.equal(kept, rows.rows) and torch.equal(size, rows.size) and not rows.floor.isfinite().any(),
        "offset": float((panel.offsets.double() - shift).abs().max() / frame.slack),
        "group": bool((panel.group_error == panel.error.view(-1, 16).amax(1)).all()),
        "size": float((rows.size / (scales[0] * queries).norm(dim=1) - 1).abs().max()),
    })
loss = 2.0**-11
noise, line = torch.full((16, 1), 1 + loss), torch.tensor([[1 + loss], [-1 - loss]]).repeat(16, 1)
frame = _frame(noise, line, torch.zeros(32))
rows, panel = _noise(noise, frame, torch.float16, tile, 1), _panel(line, torch.zeros(32), frame, torch.float16, tile)
scales = [float(2.0 ** (4 - torch.frexp(each).exponent)) for each in frame.largest]
missed = (rows.rows.double() @ panel.rows.double().T)[:, :32]
missed -= scales[0] * scales[1] * (noise.double() @ line.double().T)
result.append({"line": float((missed.abs() / (rows.size[:, None].double() * panel.error.double())).max())})
print(json.dumps(result))
"""

EACH = """
import json

import torch

from proxflow.kernels.fused_search import _group_maxima, _near_groups, _near_slopes

ROWS, COLUMNS, GROUP, DEPTH, GROUPS = 16, 32, 16, 16, 6
generator = torch.Generator().manual_seed(0)


def whole(*shape):
    return torch.randint(-8, 9, shape, generator=generator).float()


# whole numbers and halves, whose products and sums are exact: what may be the best is so to the last bit
queries, slopes, offsets = whole(ROWS, 2 * DEPTH), whole(GROUPS * GROUP, 2 * DEPTH), whole(GROUPS * GROUP)
errors, sizes, slack = whole(GROUPS * GROUP).abs() / 2, 1 + whole(ROWS).abs(), torch.tensor([3.0])
group_errors = errors.view(GROUPS, GROUP).amax(1).contiguous()
exact = queries @ slopes.T + offsets
best = exact.view(ROWS, GROUPS, GROUP).amax(2)
result = {}
for name, parts, is_whole in (("parts", 2, False), ("whole", 1, True)):
    depth = parts * DEPTH
    a, b = queries[:, :depth].half().contiguous(), slopes[:, :depth].half().contiguous()
    scores = a.float() @ b.float().T + offsets
    maxima, floors = torch.full((GROUPS, ROWS), torch.nan), torch.full((ROWS,), -torch.inf)
    floors[3] = torch.nan
    _group_maxima[1, 2](
        a, b, offsets, group_errors, sizes, slack, maxima, floors, GROUPS * GROUP, depth, 64, ROWS, WHOLE=is_whole,
        DESCRIBED=False, ROWS=ROWS, COLUMNS=COLUMNS, GROUP=GROUP, DEPTH=DEPTH, STAGES=2,
    )
    wanted = scores.view(ROWS, GROUPS, GROUP).amax(2)
    floor = (wanted - sizes[:, None] * group_errors).amax(1) - slack
    floor[3] = torch.nan
    result[name] = torch.equal(maxima, wanted.T) and torch.equal(floors.nan_to_num(7.5), floor.nan_to_num(7.5))


def found(kernel, floors, capacity):
    kept, counter = torch.full((2, capacity), -1), torch.zeros(1, dtype=torch.int64)
    kernel(floors, kept, counter, capacity)
    used = min(int(counter), capacity)
    return int(counter), sorted(map(tuple, kept[:, :used].T.tolist()))


def groups(floors, kept, counter, capacity):
    short = kept.int()
    _near_groups[1, 1](best.T.contiguous(), group_errors, sizes, floors, slack, short, counter, capacity, GROUPS, ROWS,
                       GROUPS=8, ROWS=ROWS)
    kept.copy_(short)


pairs = torch.cartesian_prod(torch.arange(ROWS), torch.arange(GROUPS)).T.int().contiguous()


def columns(floors, kept, counter, capacity):
    all_pairs = torch.tensor([pairs.shape[1]])
    _near_slopes[(3,)](pairs, all_pairs, pairs.shape[1], queries, slopes, offsets, errors, sizes, floors, slack, kept,
                       counter, capacity, 2 * DEPTH, 100, 1000, GROUP=GROUP, DEPTH=DEPTH)


for name, kernel, ceiling, shift in (
    ("groups", groups, best + group_errors * sizes[:, None], (0, 0)),
    ("columns", columns, exact + errors * sizes[:, None], (100, 1000)),
):
    result[name] = []
    for rank in (0, 1, 5):  # the floor just at the ceiling of one of them, which is to stay, and just above
        level = ceiling.sort(dim=1, descending=True).values[:, rank] + slack
        for floors in (level, torch.nextafter(level, torch.tensor(torch.inf))):
            near = (ceiling >= (floors - slack)[:, None]).nonzero() + torch.tensor(shift)
            count, places = found(kernel, floors, 200)
            result[name].append(count == len(near) and places == sorted(map(tuple, near.tolist())))
    count, places = found(kernel, torch.full((ROWS,), -torch.inf), 7)
    result[name].append(count == ceiling.numel() and len(places) == 7)
    result[name].append(found(kernel, torch.full((ROWS,), torch.nan), 7)[0] == 0)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return dict(interpreted(ANSWERS))


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["described", "sizes", "dtypes", "scales", "kept", "first", "two"])
def test_the_answers_are_those_of_float64(found: dict[str, Any], inputs: str) -> None:
    assert found[inputs]
    assert all(found[inputs])


@pytest.mark.slow
def test_the_best_slope_survives_where_rounding_puts_another_before_it(found: dict[str, Any]) -> None:
    assert found["tight"] == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.slow
def test_no_survivor_of_a_small_last_block_is_lost(found: dict[str, Any]) -> None:
    assert found["full"]


@pytest.mark.slow
def test_the_first_of_tied_slopes_is_the_answer(found: dict[str, Any]) -> None:
    assert found["tied"]


@pytest.mark.slow
def test_slopes_that_float16_does_not_tell_apart_are_searched_in_float32(found: dict[str, Any]) -> None:
    right, tried = found["near"]
    assert right
    assert tried == ["torch.float16", "torch.float32"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["NaN", "infinite", "huge", "large", "minute", "far slope", "beyond", "level"])
def test_numbers_of_any_size_give_no_wrong_answer(found: dict[str, Any], what: str) -> None:
    assert found["wild"][what]


@pytest.mark.slow
def test_too_many_equal_slopes_are_left_to_another_search(found: dict[str, Any]) -> None:
    assert found["same"]


@pytest.mark.slow
def test_a_row_that_cannot_be_screened_says_so_and_spoils_no_other(found: dict[str, Any]) -> None:
    others_are_right, of_nan = found["spoiled"]
    assert others_are_right
    assert of_nan == -1
    assert found["tiny"] == [-1, 1]
    assert found["tiny noise"] == 9 * [-1]  # kept slopes are scaled for normal noise


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["two tied", "two of a group", "two full", "two of few", "two routed"])
def test_the_best_two_are_found_or_left_to_another_search(found: dict[str, Any], inputs: str) -> None:
    assert found[inputs]


@pytest.mark.slow
def test_the_best_two_that_float16_does_not_tell_apart_are_searched_in_float32(found: dict[str, Any]) -> None:
    right, tried = found["two near"]
    assert right
    assert tried[-2:] == ["torch.float16", "torch.float32"]


@pytest.mark.slow
def test_a_row_whose_best_two_cannot_be_screened_says_so(found: dict[str, Any]) -> None:
    assert found["two tiny"] == [-1, -1, 1, 1]


@pytest.mark.parametrize("place", slow_beyond(1, [0, 1]), ids=["float16", "float32"])
def test_what_rounding_loses_stays_within_its_bounds(place: int) -> None:
    ratios = interpreted(BOUNDS)[place]
    assert ratios["group"]
    assert ratios["same"]
    assert ratios["size"] < 1e-5
    assert ratios["offset"] <= 1
    if place == 0:
        assert 0.05 < ratios["score"] <= 1
        assert 0.5 < ratios["row"] <= 1
    else:
        assert ratios["score"] <= 1
        assert ratios["row"] == 0


@pytest.mark.slow
def test_each_kernel_keeps_what_may_be_the_best_to_the_last_bit() -> None:
    """One margin too small is hidden by the others in the answer of all kernels together."""
    found = interpreted(EACH)
    assert found["parts"]
    assert found["whole"]
    assert all(found["groups"]), found["groups"]
    assert all(found["columns"]), found["columns"]


def test_the_second_best_score_is_at_least_the_second_largest_of_what_those_of_groups_are() -> None:
    from proxflow.kernels.fused_search import _Noise

    generator = torch.Generator().manual_seed(0)
    maxima = torch.randint(-50, 50, (9, 5), generator=generator).float()  # whole numbers, whose sums are exact
    errors, size = torch.arange(9.0), 1 + torch.arange(5.0)
    floor, slack = torch.full((5,), -torch.inf).index_fill(0, torch.tensor([3]), torch.nan), torch.tensor(2.0)
    leading = torch.full((2, 5), -torch.inf)
    noise = _Noise(torch.zeros(5, 4), size, floor, leading)
    noise.level(maxima[:4], errors[:4], slack)  # of a first panel
    level = noise.level(maxima[4:], errors[4:], slack)
    least = (maxima - errors[:, None] * size).sort(dim=0, descending=True).values
    assert torch.equal(leading, least[:2])
    assert torch.equal(level.nan_to_num(7.5), (least[1] - slack).index_fill(0, torch.tensor([3]), 7.5))
    one = _Noise(noise.rows, size, floor, None)
    assert one.level(maxima, errors, slack) is floor


@pytest.mark.slow
def test_the_bound_of_what_rounding_loses_is_as_small_as_it_can_be_on_a_line() -> None:
    assert 0.9 < interpreted(BOUNDS)[2]["line"] <= 1


def _compiled(name: str, constants: dict[str, Any], capability: int, stored: dict[str, str] | None = None) -> Any:
    from proxflow.kernels import fused_search

    kernel: Any = getattr(fused_search, name)
    tile = constants
    given = "*fp16" if not tile.get("DESCRIBED") else "tensordesc<fp16[{}, {}]>"
    types = {
        "imprecision": "fp32",
        "queries": given.format(tile.get("ROWS"), tile.get("DEPTH")) if name != "_exact_scores" else "*fp32",
        "slopes": given.format(tile.get("COLUMNS"), tile.get("DEPTH")) if name != "_exact_scores" else "*fp32",
        **dict.fromkeys(("kept", "pairs"), "*i64" if name in ("_exact_scores", "_near_slopes") else "*i32"),
        **dict.fromkeys(("counter", "pair_counter"), "*i64"),
        **dict.fromkeys(("of_size", "of_loss", "least", "of_spread"), "fp32"),
        "scores": "*fp64",
    }
    floats = (
        "values centre largest largest_slope sizes losses offsets errors group_errors slack maxima floors given level"
    )
    types |= dict.fromkeys((*floats.split(), "spread"), "*fp32")
    if name == "_rounded":
        types["kept"] = "*fp16"
    types |= stored or {}
    return compiled(kernel, constants, types, capability)


TILE = {"WHOLE": False, "ROWS": 128, "COLUMNS": 256, "GROUP": 32, "DEPTH": 64, "STAGES": 3}
KERNELS = [
    ("_rounded", {"NOISE": True, "LARGEST": 65504.0, "LEAST": 1e-6, "ROWS": 16, "DEPTH": 128}),
    ("_rounded", {"NOISE": False, "LARGEST": 65504.0, "LEAST": 1e-6, "ROWS": 16, "DEPTH": 128}),
    ("_bounded", {"GROUP": 128}),
    ("_group_maxima", TILE | {"DESCRIBED": False}),
    ("_group_maxima", TILE | {"DESCRIBED": False, "WHOLE": True}),
    ("_near_groups", {"GROUPS": 16, "ROWS": 128}),
    ("_near_slopes", {"GROUP": 32, "DEPTH": 64}),
    ("_exact_scores", {"PAIRS": 8, "DEPTH": 128}),
]


@pytest.mark.parametrize("capability", [80, 90], ids=["Ampere", "Hopper"])
@pytest.mark.parametrize(("name", "constants"), KERNELS, ids=lambda each: each if isinstance(each, str) else "")
def test_kernels_compile_for_gpus(name: str, constants: dict[str, Any], capability: int) -> None:
    assert ".entry" in _compiled(name, constants, capability)


@pytest.mark.parametrize("stored", ["*fp16", "*bf16", "*u8", "*i8"])
def test_kernels_that_read_rows_as_they_are_stored_compile(stored: str) -> None:
    slopes = {"NOISE": False, "LARGEST": 65504.0, "LEAST": 1e-6, "ROWS": 16, "DEPTH": 128}
    assert ".entry" in _compiled("_rounded", slopes, 90, {"values": stored})
    assert ".entry" in _compiled("_exact_scores", {"PAIRS": 8, "DEPTH": 128}, 90, {"slopes": stored})


@pytest.mark.parametrize("whole", [False, True])
def test_the_products_of_hopper_are_those_of_warp_groups_on_tiles_that_descriptors_copy(whole: bool) -> None:
    code = _compiled("_group_maxima", TILE | {"DESCRIBED": True, "WHOLE": whole}, 90)
    assert "wgmma.mma_async" in code
    assert "cp.async.bulk.tensor" in code
