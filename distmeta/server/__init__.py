"""The parameter server. It imports no algorithm, no model and no Ray."""

from distmeta.server.base import Server, StepError, StepRecord, Verdict
from distmeta.server.parameter_server import ParameterServer
from distmeta.server.staleness import AsynchronousServer

__all__ = ["AsynchronousServer", "ParameterServer", "Server", "StepError", "StepRecord", "Verdict"]
