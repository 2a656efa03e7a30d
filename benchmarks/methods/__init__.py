"""Accuracy of the methods: omniglot_methods (a table), omniglot_curve and sinusoid (pictures)."""
