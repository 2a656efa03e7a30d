"""Problems, contenders, the comparison of their gradients, and trials in a process of their own."""
