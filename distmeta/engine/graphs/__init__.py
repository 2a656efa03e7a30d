"""Meta-gradients as compiled graphs."""
