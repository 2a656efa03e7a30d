"""The parameter server. It imports no algorithm, no model and no Ray."""

from distmeta.server.base import Server, StepError, StepRecord, Verdict
from distmeta.server.parameter_server import ParameterServer
from distmeta.server.sharded import ShardedServer
from distmeta.server.staleness import AsynchronousServer

__all__ = [
    "AsynchronousServer",
    "ParameterServer",
    "Server",
    "ShardedServer",
    "StepError",
    "StepRecord",
    "Verdict",
]
