"""What meta-learning learnt: how similar representations are, from sums that workers add up."""
