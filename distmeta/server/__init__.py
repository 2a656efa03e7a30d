"""The parameter server. It imports no algorithm, no model and no Ray."""

from distmeta.server.parameter_server import ParameterServer, StepError, StepRecord, Verdict

__all__ = ["ParameterServer", "StepError", "StepRecord", "Verdict"]
