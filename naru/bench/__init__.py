"""Measuring: naru and other engines in turn, each in a process of its own.

docs/benchmarking.md says how. In the order of the data: a `case` is a model with inputs;
`compiling` makes its bundle; a `worker` is an engine's process, which runs `serve` with an adapter
of `engines`; `numerics` compares outputs; `rounds` has the workers timed in turn; `estimate` makes
figures of the rounds; `measure` is all of that for one case; `record` collects cases, `report` and
`plot` show them.
"""
