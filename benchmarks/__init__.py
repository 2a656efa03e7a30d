"""Benchmarks of a checkout; they are not part of the wheel.

    commands/   the Typer application of `distmeta bench`
    engine/     meta-gradients of one machine beside other libraries: speed, memory, data, precision
    cluster/    many workers: server, scale, workers, stragglers, asynchronous
    methods/    accuracy of the methods where a table of jobs (`distmeta table`) is not enough

Modules directly in a folder measure something; its `common/` is shared by them, and the modules beside this file are
shared by all: timing, machine (hardware and memory), report (machine line, JSON, tables), scripts, pictures.
"""
