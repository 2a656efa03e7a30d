"""The executor over Ray actors. Ray is imported only here and in job submission."""
