"""Tables of features: made of arrays and Parquet, stored, opened, and gathered from."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mbflow
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph import FeatureStore
from mbflow.graph.feature_files import FeatureWriter, StoredFeatures
from mbflow.graph.feature_values import DTYPES, encode

torch = pytest.importorskip("torch")

_DTYPES = sorted(DTYPES)


def _values(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def _decoded(values: np.ndarray, dtype: str) -> np.ndarray:
    """What a table holds of values, in float32."""
    rows, scales = encode(values, dtype)
    if dtype == "int8":
        return rows.astype(np.float32) * scales[:, None]
    if dtype == "bfloat16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(0, 70),
    dtype=st.sampled_from(_DTYPES),
    ids=st.lists(st.integers(0, 39), max_size=60),
    kind=st.sampled_from(["i8", "i4", "u8", "u4", "i2", "u1", ">i8"]),
)
def test_rows_are_those_of_indexing(rows, columns, dtype, ids, kind):
    values = _values(rows, columns)
    store = FeatureStore.from_array(values, dtype=dtype)
    wanted = np.array([at % rows for at in ids], np.dtype(kind))
    expected = _decoded(values, dtype)[wanted.astype(np.int64)]
    found = store.gather(wanted)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    out = np.full(expected.shape, 7, np.float32)
    assert store.gather(wanted, out) is out
    np.testing.assert_array_equal(out, expected)
    if wanted.dtype.isnative and kind != "u8":
        tensor = store.gather(torch.from_numpy(wanted.astype(np.int64)))
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_rows(threads):
    values = _values(5000, 33)
    ids = np.random.default_rng(1).integers(0, 5000, 30_000)
    before = mbflow.num_threads()
    try:
        mbflow.set_num_threads(threads)
        for dtype in _DTYPES:
            found = FeatureStore.from_array(values, dtype=dtype).gather(ids)
            np.testing.assert_array_equal(found, _decoded(values, dtype)[ids])
    finally:
        mbflow.set_num_threads(before)


def test_rows_may_be_given_as_they_are_held():
    values = _values(9, 5)
    ids = torch.tensor([3, 3, 8])
    half = FeatureStore.from_array(values, dtype="float16")
    out = np.empty((3, 5), np.float16)
    half.gather(ids, out)
    np.testing.assert_array_equal(out, values.astype(np.float16)[ids])
    brain = FeatureStore.from_array(values, dtype="bfloat16")
    tensor = torch.empty(3, 5, dtype=torch.bfloat16)
    assert brain.gather(ids.int(), tensor) is tensor
    assert torch.equal(tensor, torch.from_numpy(values).bfloat16()[ids])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, -1, 9], "-1"),
        ([0, 3, 2, 7], r"\b3\b"),
        ([1.0], "ids: float64 of shape"),
        ([[0]], r"ids: int64 of shape \(1, 1\); expected integers of one dimension"),
        ([True], "ids: bool"),
        (["a"], "ids: <U1"),
        (7, "ids: int64 of shape"),
        (np.array([2**63], np.uint64), "9223372036854775808"),
        (torch.tensor([0.5]), "ids: float32"),
        (np.ma.masked_array([1], [True]), "masked"),
    ],
)
def test_ids_that_are_no_rows_are_refused_and_nothing_is_written(ids, message):
    store = FeatureStore.from_array(_values(3, 2))
    out = np.full((4, 2), 5, np.float32)[: 1 if isinstance(ids, torch.Tensor) else np.size(ids)]
    with pytest.raises(InvalidArgumentError, match=message):
        store.gather(ids, out)
    assert (out == 5).all()


def test_the_first_wrong_id_is_named():
    store = FeatureStore.from_array(_values(800, 2))
    ids = np.arange(50_000) % 800
    ids[[17, 40_000]] = [900, -3]
    with pytest.raises(InvalidArgumentError, match=r"ids\[17\] is 900"):
        store.gather(ids)


def test_tables_and_requests_without_rows_or_columns():
    assert FeatureStore.from_array(_values(3, 0)).gather([2, 1]).shape == (2, 0)
    empty = FeatureStore.from_array(_values(0, 4))
    assert empty.gather([]).shape == (0, 4)
    assert empty.gather(np.empty(0, np.uint32)).shape == (0, 4)
    with pytest.raises(InvalidArgumentError, match=r"ids\[0\] is 0"):
        empty.gather([0])


def test_ids_need_not_be_contiguous():
    values = _values(10, 3)
    ids = np.arange(20).reshape(10, 2)[::-2, 0] // 2
    np.testing.assert_array_equal(FeatureStore.from_array(values).gather(ids), values[ids])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((2, 3), np.float64), "out is float64; expected float32 or float16"),
        (np.empty((3, 3), np.float32), r"out has shape \(3, 3\); expected \(2, 3\)"),
        (np.empty((2, 6), np.float32)[:, ::2], "out is not contiguous"),
        (np.empty(6, np.float32), "out: of shape"),
        (torch.empty(2, 3, dtype=torch.float64), "out is float64"),
        (torch.empty(3, 2).T, "out is not contiguous"),
        ([[0.0] * 3] * 2, "out: list; expected an array"),
        (np.empty((2, 3), ">f4"), "out is >f4"),
        (torch.empty(2, 3, device="meta"), "a tensor on meta"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(out, message):
    store = FeatureStore.from_array(_values(4, 3), dtype="float16")
    with pytest.raises(InvalidArgumentError, match=message):
        store.gather([0, 1], out)


def test_read_only_outputs_and_the_table_itself_are_refused():
    table = _values(4, 3)
    store = FeatureStore.from_array(table)
    frozen = np.empty((1, 3), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(InvalidArgumentError, match="out is read-only"):
        store.gather([0], frozen)
    with pytest.raises(InvalidArgumentError, match="out is part of the table"):
        store.gather([0], table[1:2])


def test_arrays_stay_where_they_are():
    values = _values(6, 4)
    assert FeatureStore.from_array(values).base == values.ctypes.data
    tensor = torch.from_numpy(values).bfloat16()
    store = FeatureStore.from_array(tensor)
    assert (store.base, store.dtype) == (tensor.data_ptr(), "bfloat16")
    assert torch.equal(torch.from_numpy(store.gather([5, 0])), tensor[[5, 0]].float())
    arrow = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
    assert FeatureStore.from_array(arrow).base == values.ctypes.data
    sliced = FeatureStore.from_array(pa.chunked_array([arrow.slice(2)]))
    np.testing.assert_array_equal(sliced.gather([0]), values[2:3])
    rows, scales = encode(values, "int8")
    held = FeatureStore.from_array(rows, scales=scales)
    np.testing.assert_array_equal(held.gather([1]), (rows * scales[:, None])[1:2])


def test_copies_are_aligned_and_take_any_layout():
    values = _values(60, 40)
    for made in (values.T, values[::2], values.astype(">f4"), values.astype(np.float64) * 3):
        store = FeatureStore.from_array(made, dtype="float32")
        assert store.base % 128 == 0
        np.testing.assert_array_equal(store.gather([1, 0]), made[[1, 0]].astype(np.float32))
    brain = torch.from_numpy(values).bfloat16()
    store = FeatureStore.from_array(brain, dtype="int8")
    np.testing.assert_array_equal(
        store.gather(np.arange(60)), _decoded(brain.float().numpy(), "int8")
    )


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (_values(2, 2).astype(np.float64), {}, "values are float64; expected float32"),
        (_values(4, 4).T, {}, "values are not contiguous"),
        (_values(2, 2).astype(">f4"), {}, "values are >f4"),
        (np.zeros(3, np.float32), {}, r"values: of shape \(3,\); expected an array of shape"),
        ([[1.0]], {}, "values: list"),
        (np.zeros((2, 2), np.int8), {}, "scales: expected float32 of shape"),
        (
            np.zeros((2, 2), np.int8),
            {"scales": np.zeros(3, np.float32)},
            r"scales: expected float32 of shape \(2,\)",
        ),
        (_values(2, 2), {"scales": np.zeros(2, np.float32)}, "scales are those of int8"),
        (_values(2, 2), {"dtype": "float64"}, "dtype is 'float64'; expected one of"),
        (np.array([["a"]]), {"dtype": "float32"}, "values are str32; expected numbers"),
        (torch.ones(2, 2).to_sparse(), {}, "a tensor on torch.sparse"),
        (pa.array([[1.0]]), {}, "expected an Arrow array of fixed-size lists"),
        (pa.array([[1.0], None], pa.list_(pa.float32(), 1)), {}, "holds nulls"),
        (np.ma.masked_array(_values(2, 2)), {}, "masked"),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_are_refused(values, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        FeatureStore.from_array(values, **options)


def test_a_value_beyond_the_type_is_named_by_its_row_in_the_whole():
    values = np.zeros((100_000, 64), np.float32)
    values[90_000, 3] = 1e9
    with pytest.raises(DataError, match=r"row 90000: column 3 is 1000000000\.0, more than"):
        FeatureStore.from_array(values, dtype="float16")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _written(folder: Path, values: np.ndarray, *, lists: bool, files: int = 3) -> Path:
    folder.mkdir()
    for at, part in enumerate(np.array_split(values, files)):
        columns = {"x": pa.array(list(part))} if lists else {f"c{c}": part[:, c] for c in range(4)}
        pq.write_table(pa.table({**columns, "other": [""] * len(part)}), folder / f"{at}.parquet")
    return folder


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("lists", [True, False])
def test_parquet_in_memory_and_in_a_folder_are_the_same(tmp_path, dtype, lists):
    values = _values(500, 4)
    source = _written(tmp_path / "source", values, lists=lists)
    columns = "x" if lists else ["c0", "c1", "c2", "c3"]
    memory = FeatureStore.from_parquet(source, columns, dtype=dtype)
    stored = FeatureStore.from_parquet(source, columns, dtype=dtype, path=tmp_path / "out")
    opened = FeatureStore.open(tmp_path / "out", verify=True)
    ids = np.arange(500)[::-1]
    for store in (memory, stored, opened):
        assert store.shape == (500, 4)
        assert store.base % 128 == 0
        np.testing.assert_array_equal(store.gather(ids), _decoded(values, dtype)[ids])


def test_rows_of_parquet_that_are_wrong_are_named_by_file_and_row(tmp_path):
    values = _values(30, 4).astype(np.float64)
    values[25, 2] = 1e300
    source = _written(tmp_path / "source", values, lists=False)
    columns = [f"c{c}" for c in range(4)]
    for path in (None, tmp_path / "out"):
        with pytest.raises(DataError, match=r"2\.parquet, row 5: column `c2` is 1e\+300, more"):
            FeatureStore.from_parquet(source, columns, path=path)
    assert not (tmp_path / "out").exists()
    assert _names(tmp_path) == ["source"]
    with pytest.raises(DataError, match="no column `d`; it has: c0"):
        FeatureStore.from_parquet(source, ["c0", "d"])
    with pytest.raises(InvalidArgumentError, match="each named once"):
        FeatureStore.from_parquet(source, ["c0", "c0"])
    with pytest.raises(DataError, match=r"0\.parquet: the column `other` is string"):
        FeatureStore.from_parquet(source, "other")
    with pytest.raises(DataError, match="there is no such file or folder"):
        FeatureStore.from_parquet(tmp_path / "none", "x")


def test_lists_of_another_length_in_a_later_file_are_named(tmp_path):
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table({"x": [[1.0, 2.0]] * 3}), tmp_path / "s/0.parquet")
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0]]}), tmp_path / "s/1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet, row 1: column `x` has 1 entries, and 2"):
        FeatureStore.from_parquet(tmp_path / "s", "x")


@pytest.mark.parametrize("dtype", _DTYPES)
def test_a_saved_table_is_opened_again(tmp_path, dtype):
    values = _values(70, 5)
    store = FeatureStore.from_array(values, dtype=dtype).save(tmp_path / "t")
    assert "FeatureStore(70 x 5" in repr(store)
    assert store.path == tmp_path / "t"
    again = pickle.loads(pickle.dumps(FeatureStore.open(tmp_path / "t")))
    np.testing.assert_array_equal(again.gather([69]), _decoded(values, dtype)[69:])
    memory = pickle.loads(pickle.dumps(FeatureStore.from_array(values, dtype=dtype)))
    np.testing.assert_array_equal(memory.gather([69]), _decoded(values, dtype)[69:])


def test_pickles_of_a_table_that_was_replaced_are_refused(tmp_path):
    store = FeatureStore.from_array(_values(3, 2)).save(tmp_path / "t")
    pickled = pickle.dumps(store)
    FeatureStore.from_array(_values(3, 2, seed=9)).save(tmp_path / "t")
    with pytest.raises(DataError, match="other features than those"):
        pickle.loads(pickled)
    np.testing.assert_array_equal(store.gather([2]), _values(3, 2)[2:])


def test_damage_is_found(tmp_path):
    store = FeatureStore.from_array(_values(50, 8), dtype="int8").save(tmp_path / "t")
    rows = tmp_path / "t/rows.bin"
    with rows.open("r+b") as file:
        file.write(b"\x55")
    with pytest.raises(DataError, match=r"rows\.bin: changed since it was opened"):
        store.gather([0])
    FeatureStore.open(tmp_path / "t")  # nothing is read
    with pytest.raises(DataError, match=r"rows\.bin: does not match its checksum"):
        FeatureStore.open(tmp_path / "t", verify=True)
    opened = FeatureStore.open(tmp_path / "t")
    os.truncate(rows, 10)
    with pytest.raises(DataError, match=r"rows\.bin: changed since it was opened"):
        opened.gather([49])
    with pytest.raises(DataError, match=r"rows\.bin: 10 bytes, expected 400; write the features"):
        FeatureStore.open(tmp_path / "t")
    rows.unlink()
    with pytest.raises(DataError, match=r"rows\.bin: No such file"):
        FeatureStore.open(tmp_path / "t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(dtype="float64"), "`dtype`: expected float32 or"),
        (lambda content: content.update(rows=-1), "`rows`: expected a number from 0"),
        (lambda content: content.update(columns=3), "`arrays.rows.bytes`: expected 24"),
        (lambda content: content.update(mbflow_features=2), "of format 2; this version reads 1"),
        (lambda content: content["arrays"].pop("rows"), "`arrays`: expected files of rows"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(tmp_path, change, message):
    from mbflow.graph.feature_files import _FEATURES

    FeatureStore.from_array(_values(2, 2)).save(tmp_path / "t")
    manifest = tmp_path / "t/features.json"
    content = json.loads(manifest.read_text())
    del content["checksum"]
    change(content)
    manifest.write_bytes(_FEATURES.seal(content))
    with pytest.raises(DataError, match=message):
        FeatureStore.open(tmp_path / "t")
    manifest.write_text(manifest.read_text().replace("rows", "sows", 1))
    with pytest.raises(DataError, match="damaged"):
        FeatureStore.open(tmp_path / "t")


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("of value")
    store = FeatureStore.from_array(_values(2, 2))
    with pytest.raises(InvalidArgumentError, match="no stored features"):
        store.save(tmp_path)
    mbflow_graph = tmp_path / "graph"
    from mbflow.graph import Graph

    Graph.from_edges([1], [0]).save(mbflow_graph)
    with pytest.raises(InvalidArgumentError, match="no stored features"):
        store.save(mbflow_graph)
    with pytest.raises(DataError, match=re.escape("no stored features (no features.json in it)")):
        FeatureStore.open(mbflow_graph)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.sampled_from(_DTYPES), st.integers(1, 5), st.randoms())
def test_rows_written_in_any_order_lie_in_their_places(
    tmp_path_factory, rows, dtype, parts, random
):
    values = _values(rows, 3)
    order = list(range(rows))
    random.shuffle(order)
    folder = tmp_path_factory.mktemp("features")
    with FeatureWriter(folder, 3, dtype=dtype, rows=rows) as writer:
        for places in np.array_split(np.array(order), parts):
            writer.put(places, values[places])
        writer.finish()
    found = FeatureStore.open(folder, verify=True).gather(np.arange(rows))
    np.testing.assert_array_equal(found, _decoded(values, dtype))


def test_places_that_come_twice_or_never_are_refused(tmp_path):
    with FeatureWriter(tmp_path / "t", 1, dtype="float32", rows=4) as writer:
        writer.put(np.array([2]), np.ones((1, 1)))
        for places, error, message in [
            ([0, 0], DataError, "row 1: place 0 comes twice"),
            ([1, 2], DataError, "row 1: place 2 comes twice"),
            ([4], InvalidArgumentError, "place 4; expected 0 to 3"),
        ]:
            with pytest.raises(error, match=message):
                writer.put(np.array(places, np.int64), np.ones((len(places), 1)))
        with pytest.raises(DataError, match="no row for place 0, and 2 others"):
            writer.finish()
    assert _names(tmp_path) == []


def test_a_writer_that_is_left_leaves_nothing(tmp_path):
    FeatureStore.from_array(_values(2, 2)).save(tmp_path / "t")

    def stopped() -> None:
        with FeatureWriter(tmp_path / "t", 2, dtype="int8") as writer:
            writer.append(_values(9, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert _names(tmp_path) == ["t"]
    np.testing.assert_array_equal(StoredFeatures(tmp_path / "t").rows, _values(2, 2))


def test_a_forked_process_gathers_as_well():
    store = FeatureStore.from_array(_values(100, 16), dtype="float16")
    expected = store.gather(np.arange(100))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        same = bool((store.gather(np.arange(100)) == expected).all())
        os.write(writing, b"1" if same else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1) == b"1"
