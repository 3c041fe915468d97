"""Values with names of their own. Two bodies may use one name, and a plan knows values by name."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto

from naru.frontend.onnx_check import bodies_of


def with_unique_names(model: ModelProto) -> ModelProto:
    """The model, or where a body defines a name that the graph or another body has, a copy in which
    it is called otherwise. (A name that one graph defines twice stays so, and is refused later.)"""
    if not _repeats(model.graph, set()):
        return model
    copied = ModelProto()
    copied.CopyFrom(model)
    _rename(copied.graph, {}, set())
    return copied


def _defined(g: GraphProto) -> dict[str, None]:
    names = [v.name for v in g.input] + [t.name for t in g.initializer]
    names += [t.values.name for t in g.sparse_initializer]
    return dict.fromkeys([*names, *(o for n in g.node for o in n.output if o)])


def _repeats(g: GraphProto, known: set[str]) -> bool:
    """Does it, or a body in it, define a name that is known?"""
    own = _defined(g)
    if not known.isdisjoint(own):
        return True
    known.update(own)
    return any(_repeats(b, known) for n in g.node for b in bodies_of(n))


def _rename(g: GraphProto, outer: Mapping[str, str], taken: set[str]) -> None:
    names = dict(outer)
    for name in _defined(g):
        new, k = name, 2
        while new in taken:
            new, k = f"{name}.{k}", k + 1
        names[name] = new
        taken.add(new)
    for v in (*g.input, *g.output, *g.value_info, *g.initializer):
        v.name = names.get(v.name, v.name)
    for t in g.sparse_initializer:
        t.values.name = names[t.values.name]
    for n in g.node:
        n.input[:] = [names.get(i, i) for i in n.input]
        n.output[:] = [names.get(o, o) for o in n.output]
        for body in bodies_of(n):
            _rename(body, names, taken)
