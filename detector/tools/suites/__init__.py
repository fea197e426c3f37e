"""Suites: many ablations over many seeds, on this machine or on a cluster, from one small file."""
