"""PyG's loaders over this package's sampler: PyG's own contract, features, models, workers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from graph_samples import graph_of, hetero_graph, random_edges
from mbflow.errors import InvalidArgumentError
from mbflow.training import without_warnings

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.peer("torch", "torch_geometric"),
    # A machine may have fewer processors than the tests have workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
with without_warnings():
    pytest.importorskip("torch_geometric", exc_type=ImportError)
    from torch_geometric.data import Data, HeteroData
    from torch_geometric.loader import LinkLoader, NodeLoader
    from torch_geometric.nn import HeteroConv, SAGEConv
    from torch_geometric.sampler import (
        BaseSampler,
        EdgeSamplerInput,
        NegativeSampling,
        NodeSamplerInput,
    )
    from torch_geometric.utils import trim_to_layer

from mbflow.graph import NeighbourSampler  # noqa: E402
from mbflow.graph.interop import to_pyg  # noqa: E402
from mbflow.graph.pyg import PyGSampler  # noqa: E402  - where torch_geometric is there

NODES = 90
SOURCES, TARGETS = random_edges(NODES, 600, seed=5)
GRAPH = graph_of(SOURCES, TARGETS, nodes=NODES)
DATA = Data(
    x=torch.arange(NODES * 4, dtype=torch.float32).reshape(NODES, 4) / 100,
    edge_index=torch.from_numpy(np.stack([SOURCES, TARGETS])),
    edge_attr=torch.arange(600.0)[:, None],
)
HETERO = hetero_graph()
TYPES = HeteroData()
for kind, count in HETERO.nodes.items():
    TYPES[kind].x = torch.arange(count * 3, dtype=torch.float32).reshape(count, 3) / 50
for relation, graph in HETERO.relations.items():
    in_order = np.argsort(graph.rows)
    targets = np.repeat(np.arange(graph.nodes), np.diff(graph.offsets.astype(np.int64)))
    ends = np.stack([graph.sources.astype(np.int64), targets])[:, in_order]
    TYPES[relation].edge_index = torch.from_numpy(ends)
    TYPES[relation].edge_attr = torch.arange(float(graph.edges))[:, None]


def sampler_of(fanouts, seed=0) -> PyGSampler:
    return PyGSampler(NeighbourSampler(GRAPH, fanouts, expand="new", seed=seed))


def hetero_sampler(fanouts, seed=0) -> PyGSampler:
    return PyGSampler(NeighbourSampler(HETERO, fanouts, expand="new", seed=seed))


def check(batch: Data) -> None:
    """A batch holds what the whole data holds of its nodes and edges."""
    assert torch.equal(batch.x, DATA.x[batch.n_id])
    assert torch.equal(batch.edge_attr, DATA.edge_attr[batch.e_id])
    assert torch.equal(batch.n_id[batch.edge_index], DATA.edge_index[:, batch.e_id])
    assert sum(batch.num_sampled_nodes) == len(batch.n_id)
    assert sum(batch.num_sampled_edges) == batch.edge_index.shape[1]


def check_types(batch: HeteroData) -> None:
    for kind in TYPES.node_types:
        assert torch.equal(batch[kind].x, TYPES[kind].x[batch[kind].n_id])
        assert sum(batch[kind].num_sampled_nodes) == len(batch[kind].n_id)
    for relation in TYPES.edge_types:
        ours, whole = batch[relation], TYPES[relation]
        assert torch.equal(ours.edge_attr, whole.edge_attr[ours.e_id])
        source, target = ours.edge_index
        ends = torch.stack([batch[relation[0]].n_id[source], batch[relation[2]].n_id[target]])
        assert torch.equal(ends, whole.edge_index[:, ours.e_id])
        assert sum(ours.num_sampled_edges) == ours.edge_index.shape[1]


class Layers(torch.nn.Module):
    """Three layers of GraphSAGE, on all edges or on what each layer needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convs = torch.nn.ModuleList([SAGEConv(4, 8), SAGEConv(8, 8), SAGEConv(8, 5)])

    def forward(self, data, *, trim=False):
        x, edge_index = data.x, data.edge_index
        for number, conv in enumerate(self.convs):
            if trim:
                x, edge_index, _ = trim_to_layer(
                    number, data.num_sampled_nodes, data.num_sampled_edges, x, edge_index
                )
            x = conv(x, edge_index).tanh()
        return x


class TypeLayers(torch.nn.Module):
    """Two layers of GraphSAGE for each relation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        with without_warnings():  # no relation leads to topics
            convs = [
                HeteroConv({relation: SAGEConv(3, 3) for relation in TYPES.edge_types})
                for _ in range(2)
            ]
        self.convs = torch.nn.ModuleList(convs)

    def forward(self, data, *, trim=False):
        x, edge_index = data.x_dict, data.edge_index_dict
        for number, conv in enumerate(self.convs):
            if trim:
                x, edge_index, _ = trim_to_layer(
                    number,
                    data.num_sampled_nodes_dict,
                    data.num_sampled_edges_dict,
                    x,
                    edge_index,
                )
            # Types that no relation leads to keep what they have.
            x = x | {kind: one.tanh() for kind, one in conv(x, edge_index).items()}
        return x


# Nodes


def test_it_is_one_of_pygs_samplers():
    assert isinstance(sampler_of([2]), BaseSampler)


def test_a_node_loader_gives_every_seed_with_its_features():
    loader = NodeLoader(DATA, sampler_of([4, 3]), batch_size=16, shuffle=True)
    batches = list(loader)
    assert len(batches) == 6
    for batch in batches:
        check(batch)
        assert batch.n_id[: batch.batch_size].tolist() == batch.input_id.tolist()
        assert batch.num_sampled_nodes[0] == batch.batch_size
    seeds = torch.cat([batch.n_id[: batch.batch_size] for batch in batches])
    assert sorted(seeds.tolist()) == list(range(NODES))


def test_no_node_has_more_edges_than_the_fan_out():
    for batch in NodeLoader(DATA, sampler_of([4, 3]), batch_size=30):
        first = batch.num_sampled_edges[0]
        for ends, fanout in ((batch.edge_index[1, :first], 4), (batch.edge_index[1, first:], 3)):
            assert ends.bincount().max() <= fanout
        assert len(set(batch.e_id.tolist())) == len(batch.e_id)


def test_a_seed_given_twice_has_its_row_and_its_edges_twice():
    seeds = torch.tensor([7, 3, 7, 0])
    (batch,) = NodeLoader(DATA, sampler_of([-1, -1, -1]), input_nodes=seeds, batch_size=4)
    check(batch)
    assert batch.n_id[:4].tolist() == seeds.tolist()
    model = Layers().eval()
    torch.testing.assert_close(model(batch, trim=True)[:4], model(DATA)[seeds])


@pytest.mark.parametrize("trim", [False, True])
def test_full_fan_outs_give_the_outputs_of_the_whole_graph(trim):
    model = Layers().eval()
    whole = model(DATA)
    seen = 0
    for batch in NodeLoader(DATA, sampler_of([-1, -1, -1]), batch_size=13):
        # Without trimming the nodes found last have no edges, so only the seeds' rows are right.
        torch.testing.assert_close(
            model(batch, trim=trim)[: batch.batch_size], whole[batch.n_id[: batch.batch_size]]
        )
        seen += batch.batch_size
    assert seen == NODES


def test_trimming_leaves_the_outputs_of_the_seeds():
    model = Layers().eval()
    for batch in NodeLoader(DATA, sampler_of([3, 2, 2]), batch_size=20):
        size = batch.batch_size
        torch.testing.assert_close(model(batch, trim=True)[:size], model(batch)[:size])


def listed(loader) -> list[tuple[list[int], list[int]]]:
    return [(batch.n_id.tolist(), batch.e_id.tolist()) for batch in loader]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_draw_the_same(workers):
    alone = listed(NodeLoader(DATA, sampler_of([4, 3]), batch_size=16))
    loader = NodeLoader(DATA, sampler_of([4, 3]), batch_size=16, num_workers=workers)
    assert listed(loader) == alone
    assert listed(loader) == alone


def test_draws_follow_from_the_seed_the_epoch_and_the_seeds_of_the_batch():
    sampler = sampler_of([4, 3])
    loader = NodeLoader(DATA, sampler, batch_size=16)
    first = listed(loader)
    assert listed(loader) == first
    sampler.set_epoch(1)
    second = listed(loader)
    assert second != first
    assert listed(NodeLoader(DATA, sampler_of([4, 3], seed=1), batch_size=16)) != first
    sampler.set_epoch(0)
    assert listed(loader) == first
    # Node 7 is a seed in both; another batch draws others of its neighbours.
    drawn = [
        sampler.sample_from_nodes(NodeSamplerInput(None, torch.tensor([7, other]))).edge.tolist()[
            :4
        ]
        for other in range(20, 30)
    ]
    assert len({tuple(one) for one in drawn}) > 1


def test_it_pickles():
    sampler = hetero_sampler([3, 3])
    sampler.set_epoch(5)
    again = pickle.loads(pickle.dumps(sampler))
    seeds = NodeSamplerInput(None, torch.tensor([1, 2]), input_type="paper")
    one, other = sampler.sample_from_nodes(seeds), again.sample_from_nodes(seeds)
    assert again.epoch == 5
    assert {kind: ids.tolist() for kind, ids in one.node.items()} == {
        kind: ids.tolist() for kind, ids in other.node.items()
    }


# Links


@pytest.mark.parametrize("workers", [0, 2])
def test_a_link_loader_gives_every_edge(workers):
    loader = LinkLoader(DATA, sampler_of([4, 3]), batch_size=50, shuffle=True, num_workers=workers)
    seen = []
    for batch in loader:
        check(batch)
        ends = batch.n_id[batch.edge_label_index]
        assert torch.equal(ends, DATA.edge_index[:, batch.input_id])
        seen += batch.input_id.tolist()
    assert sorted(seen) == list(range(600))


def test_a_link_loader_draws_negative_edges():
    torch.manual_seed(0)
    ends = DATA.edge_index[:, :100]
    loader = LinkLoader(
        DATA, sampler_of([4, 3]), ends, neg_sampling=NegativeSampling("binary", 2.0), batch_size=25
    )
    batches = list(loader)
    assert len(batches) == 4
    drawn = set()
    for number, batch in enumerate(batches):
        check(batch)
        assert batch.edge_label.tolist() == [1.0] * 25 + [0.0] * 50
        found = batch.n_id[batch.edge_label_index]
        assert torch.equal(found[:, :25], ends[:, 25 * number : 25 * number + 25])
        drawn |= set(map(tuple, found[:, 25:].T.tolist()))
    assert len(drawn) > 150


def test_a_link_loader_draws_triplets():
    torch.manual_seed(0)
    ends = DATA.edge_index[:, :60]
    loader = LinkLoader(
        DATA, sampler_of([4]), ends, neg_sampling=NegativeSampling("triplet", 3), batch_size=20
    )
    for number, batch in enumerate(loader):
        check(batch)
        source, target = ends[:, 20 * number : 20 * number + 20]
        assert torch.equal(batch.n_id[batch.src_index], source)
        assert torch.equal(batch.n_id[batch.dst_pos_index], target)
        assert batch.dst_neg_index.shape == (20, 3)
    assert number == 2


# Several types


@pytest.mark.parametrize("workers", [0, 2])
def test_a_node_loader_of_several_types(workers):
    loader = NodeLoader(TYPES, hetero_sampler([3, 2]), "paper", batch_size=16, num_workers=workers)
    seeds = []
    for batch in loader:
        check_types(batch)
        own = batch["paper"]
        seeds += own.n_id[: own.batch_size].tolist()
        assert {len(batch[kind].num_sampled_nodes) for kind in TYPES.node_types} == {3}
        assert {len(batch[name].num_sampled_edges) for name in TYPES.edge_types} == {2}
    assert seeds == list(range(60))


def test_a_type_that_no_hop_reaches_is_there_and_empty():
    (batch,) = NodeLoader(TYPES, hetero_sampler([3]), ("paper", torch.tensor([4])), batch_size=1)
    check_types(batch)
    assert batch["topic"].num_nodes == 0
    assert batch["topic", "of", "author"].num_sampled_edges == [0]


@pytest.mark.parametrize("trim", [False, True])
def test_full_fan_outs_of_several_types_give_the_outputs_of_the_whole_graph(trim):
    model = TypeLayers().eval()
    whole = model(TYPES)
    for kind in ("paper", "author"):
        for batch in NodeLoader(TYPES, hetero_sampler([-1, -1]), kind, batch_size=9):
            own = batch[kind]
            torch.testing.assert_close(
                model(batch, trim=trim)[kind][: own.batch_size],
                whole[kind][own.n_id[: own.batch_size]],
            )


@pytest.mark.parametrize("relation", [("author", "writes", "paper"), ("paper", "cites", "paper")])
@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_a_link_loader_of_several_types(relation, mode):
    torch.manual_seed(0)
    negative = None if mode is None else NegativeSampling(mode, 2)
    loader = LinkLoader(
        TYPES, hetero_sampler([3, 2]), relation, neg_sampling=negative, batch_size=50, shuffle=True
    )
    ends = TYPES[relation].edge_index
    seen = []
    for batch in loader:
        check_types(batch)
        store = batch[relation]
        source, target = ends[:, store.input_id]
        count = len(source)
        if mode == "triplet":
            found = batch[relation[0]].src_index, batch[relation[2]].dst_pos_index
            assert batch[relation[2]].dst_neg_index.shape == (count, 2)
        else:
            found = store.edge_label_index[:, :count]
            assert store.edge_label_index.shape[1] == (count if mode is None else 3 * count)
        assert torch.equal(batch[relation[0]].n_id[found[0]], source)
        assert torch.equal(batch[relation[2]].n_id[found[1]], target)
        seen += store.input_id.tolist()
    assert sorted(seen) == list(range(ends.shape[1]))


# PyG's own sampler


def test_full_fan_outs_give_what_pygs_own_sampler_gives():
    pytest.importorskip("pyg_lib", exc_type=ImportError)
    from torch_geometric.sampler import NeighborSampler

    theirs, ours = NeighborSampler(DATA, [-1, -1]), sampler_of([-1, -1])
    seeds = NodeSamplerInput(None, torch.tensor([3, 80, 3, 41]))
    one, other = ours.sample_from_nodes(seeds), theirs.sample_from_nodes(seeds)
    assert one.num_sampled_nodes == other.num_sampled_nodes
    assert one.num_sampled_edges == other.num_sampled_edges
    assert one.node[:4].tolist() == other.node[:4].tolist()
    assert sorted(one.node.tolist()) == sorted(other.node.tolist())
    begin = 0
    for count in one.num_sampled_edges:
        ids = [
            found.edge_permutation[sample.edge[begin : begin + count].to(torch.int64)].tolist()
            for found, sample in ((ours, one), (theirs, other))
        ]
        assert sorted(ids[0]) == sorted(ids[1])
        begin += count


# Trees kept apart, and times

TIMES = np.random.default_rng(1).integers(0, 50, 600)
TIMED = graph_of(SOURCES, TARGETS, nodes=NODES, times=TIMES)


def tree_edges(batch: Data) -> None:
    assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
    assert batch.batch[: batch.batch_size].tolist() == list(range(batch.batch_size))


def test_trees_are_kept_apart():
    sampler = PyGSampler(NeighbourSampler(GRAPH, [4, 3], expand="new", disjoint=True))
    assert sampler.disjoint
    seeds = torch.tensor([7, 3, 7])
    (batch,) = NodeLoader(DATA, sampler, input_nodes=seeds, batch_size=3)
    check(batch)
    tree_edges(batch)
    assert batch.n_id[:3].tolist() == [7, 3, 7]
    assert sorted(set(batch.batch.tolist())) == [0, 1, 2]


@pytest.mark.parametrize("mode", ["binary", "triplet"])
def test_trees_of_both_ends_of_an_edge_are_one(mode):
    sampler = PyGSampler(NeighbourSampler(GRAPH, [4, 3], expand="new", disjoint=True))
    ends = DATA.edge_index[:, :30]
    for batch in LinkLoader(
        DATA, sampler, ends, neg_sampling=NegativeSampling(mode, 1), batch_size=10
    ):
        check(batch)
        source, target = (
            batch.edge_label_index[:, :10]
            if mode == "binary"
            else (batch.src_index, batch.dst_pos_index)
        )
        wanted = list(range(10))
        assert batch.batch[source].tolist() == batch.batch[target].tolist() == wanted
        assert torch.equal(batch.n_id[torch.stack([source, target])], ends[:, batch.input_id])


def test_edges_are_not_later_than_the_seed():
    sampler = PyGSampler(NeighbourSampler(TIMED, [-1, -1], expand="new", temporal=True))
    seeds = torch.arange(40, 70)
    moments = torch.arange(30) * 2
    loader = NodeLoader(DATA, sampler, seeds, input_time=moments, batch_size=10)
    last = 0
    for batch in loader:
        check(batch)
        tree_edges(batch)
        first = batch.num_sampled_edges[0]
        for place, (seed, moment) in enumerate(
            zip(batch.n_id[:10].tolist(), batch.seed_time.tolist(), strict=True)
        ):
            own = batch.batch[batch.edge_index[1]] == place
            assert (TIMES[batch.e_id[own]] <= moment).all()
            # At the first hop all of them, those at the very time, too.
            wanted = np.flatnonzero((seed == TARGETS) & (moment >= TIMES))
            found = batch.e_id[:first][batch.edge_index[1, :first] == place]
            assert sorted(found.tolist()) == wanted.tolist()
            last += int((TIMES[found] == moment).sum())
    assert last > 0


def test_times_of_seeds_need_a_temporal_sampler():
    seeds = NodeSamplerInput(None, torch.tensor([3]), torch.tensor([9]))
    with pytest.raises(InvalidArgumentError, match="times"):
        sampler_of([3]).sample_from_nodes(seeds)
    edges = EdgeSamplerInput(None, torch.tensor([3]), torch.tensor([4]))
    assert sampler_of([3]).sample_from_edges(edges).node[:2].tolist() == [3, 4]


# From data


def test_a_sampler_of_data_knows_edges_by_their_column():
    sampler = PyGSampler.from_data(DATA, [4, 3], seed=9)
    ours = listed(NodeLoader(DATA, sampler, batch_size=16))
    assert ours == listed(NodeLoader(DATA, sampler_of([4, 3], seed=9), batch_size=16))


def test_a_sampler_of_data_of_several_types():
    sampler = PyGSampler.from_data(TYPES, [4, 3], seed=9)
    for batch in NodeLoader(TYPES, sampler, "author", batch_size=10):
        check_types(batch)
        assert sum(batch["author"].num_sampled_nodes[1:]) > 0


def test_a_sampler_of_data_reads_weights_and_times():
    weight = torch.from_numpy((TIMES % 2).astype(np.float32))
    data = Data(edge_index=DATA.edge_index, x=DATA.x, weight=weight, time=torch.from_numpy(TIMES))
    sampler = PyGSampler.from_data(data, [4, 3], weight_attr="weight", method="weighted")
    for batch in NodeLoader(data, sampler, batch_size=30):
        assert batch.weight.unique().tolist() == [1.0]
    sampler = PyGSampler.from_data(data, [4, 3], time_attr="time", temporal=True)
    moments = torch.full((NODES,), 10)
    for batch in NodeLoader(data, sampler, input_time=moments, batch_size=30):
        assert batch.time.max() <= 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "data is a list; expected a Data or a HeteroData"),
        (Data(x=torch.ones(2, 2)), "data has no edge_index"),
    ],
)
def test_data_without_edges_is_refused(data, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PyGSampler.from_data(data, [2])


def test_a_sampler_that_goes_on_from_all_nodes_is_refused():
    with pytest.raises(InvalidArgumentError, match='expand="new"'):
        PyGSampler(NeighbourSampler(GRAPH, [2, 2]))


def test_weights_that_loaders_would_drop_are_refused() -> None:
    drawn = NeighbourSampler(GRAPH, [4], method="budget", expand="new")
    assert drawn.sample([0, 1]).layers[0].weights is not None
    with pytest.raises(InvalidArgumentError, match=r'"budget".*interop\.to_pyg.*edge_weight'):
        PyGSampler(drawn)
    with pytest.raises(InvalidArgumentError, match=r'"budget".*interop\.to_pyg'):
        PyGSampler.from_data(DATA, [4], method="budget")
    assert to_pyg(drawn.sample([0, 1])).edge_weight is not None


def test_something_else_is_no_sampler():
    with pytest.raises(InvalidArgumentError, match=r"sampler is a Graph; expected NeighbourSampl"):
        PyGSampler(graph_of(*random_edges(5, 9), nodes=5))


@pytest.mark.parametrize("name", ["weight_attr", "time_attr"])
def test_attributes_that_no_edges_have_are_named(name):
    data = Data(edge_index=torch.tensor([[1, 2], [0, 0]]), num_nodes=3)
    with pytest.raises(InvalidArgumentError, match=f"{name}: no edges have 'nope'; there are edge"):
        PyGSampler.from_data(data, [2], **{name: "nope"})
