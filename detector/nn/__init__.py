"""The network: blocks, the detector assembled from them, its initialisation and its loss."""
