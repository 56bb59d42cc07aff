"""Servers to compare with, each as its users would write it: a file a peer, run by the Python of its own
environment, so they import nothing of this package. Those with a model train the same scikit-learn
pipeline on the rows of the file in $ROWS when they start. Arguments: the port, and a folder of their own.
"""
