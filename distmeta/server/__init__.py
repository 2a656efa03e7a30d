"""The parameter server. It imports no algorithm, no model and no Ray."""

from distmeta.server.asynchronous import AsynchronousServer
from distmeta.server.base import Server, StepError, StepRecord, Verdict, Weights
from distmeta.server.synchronous import ParameterServer

__all__ = ["AsynchronousServer", "ParameterServer", "Server", "StepError", "StepRecord", "Verdict", "Weights"]
