"""The engine's meta-gradients beside those of higher, torchopt and a plain loop.

speed (with speed_results), memory, data and precision measure; common/ defines what they compute and who computes it.
"""
