"""Runs: data in, a trained network or a report out.

Needs the ``train`` extra: Lightning, torchvision, scikit-learn and matplotlib.
"""
