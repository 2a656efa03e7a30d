"""One training under one trace of faults, by distmeta and by other systems that train on several workers."""
